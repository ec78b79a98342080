"""What a run begins with: scheduler, timesteps, first latents, and what images, masks and controls add to the loop."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor

from core.control import ControlUnit
from core.denoise import Blend, Denoising
from core.families.sd import EncodedPrompt, StableDiffusion
from core.request import GenerationRequest, first_step
from core.samplers import SAMPLERS

SCHEDULES = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
SOLVER = ("algorithm_type", "solver_order", "solver_type")


@dataclass(frozen=True)
class Noise:
    """Each picture's own source of noise, on the CPU: picture k of a batch draws what a single run of its seed draws."""

    generators: list[torch.Generator]

    @classmethod
    def of(cls, request: GenerationRequest) -> Noise:
        assert request.seed is not None
        seeds = range(request.seed, request.seed + request.batch_size)
        return cls([torch.Generator("cpu").manual_seed(seed) for seed in seeds])

    def like(self, shape: tuple[int, ...], unet: Any) -> Tensor:
        noise: Tensor = randn_tensor((len(self.generators), *shape), self.generators, unet.device, unet.dtype)
        return noise


def make_scheduler(request: GenerationRequest, config: Mapping[str, Any]) -> Any:
    """A fresh scheduler: noise levels of the checkpoint's own `config`, method and schedule of the sampler's name."""
    assert request.sampler is not None
    assert request.seed is not None
    sampler = SAMPLERS[request.sampler]
    scheduler_class = getattr(diffusers, sampler.scheduler)
    options = dict(sampler.config)
    if "noise_sampler_seed" in inspect.signature(scheduler_class).parameters:  # DPM++ SDE takes no generators
        options["noise_sampler_seed"] = [request.seed + k for k in range(request.batch_size)]
    levels = {key: value for key, value in config.items() if key not in SCHEDULES + SOLVER}
    return scheduler_class.from_config(levels, **options)


@torch.inference_mode()
def prepare(
    model: StableDiffusion, prompts: Sequence[EncodedPrompt], request: GenerationRequest, nets: Sequence[Any]
) -> Denoising:
    """Everything the loop needs for a resolved `request`. `nets` are the loaded ControlNets of `request.controls`."""
    assert request.width
    assert request.height
    assert request.guidance_scale is not None
    unet, size = model.parts.unet, (request.width, request.height)
    scheduler = make_scheduler(request, model.parts.scheduler_config)
    scheduler.set_timesteps(request.steps, device=unet.device)
    noise = Noise.of(request)
    start = _Start.of(model, scheduler, request, noise)
    conditioning = model.conditioning(prompts, request.batch_size, size)
    return Denoising(
        predict=functools.partial(model.predict, conditioning),
        scheduler=scheduler,
        timesteps=start.timesteps,
        latents=start.latents,
        guidance_scale=request.guidance_scale,
        step_options=_step_options(scheduler, noise),
        controls=[
            ControlUnit(net, _pixels(c.image, size, unet), conditioning, c.weight, c.start, c.end)
            for net, c in zip(nets, request.controls, strict=True)
        ],
        blend=start.blend,
        inpaint_channels=start.inpaint_channels,
    )


def _step_options(scheduler: Any, noise: Noise) -> dict[str, Any]:
    """What this scheduler's `step` takes beside the prediction; eta is 0, as the diffusers pipelines have it."""
    known = inspect.signature(scheduler.step).parameters
    options = {"generator": noise.generators, "eta": 0.0}
    return {name: value for name, value in options.items() if name in known}


@dataclass(frozen=True)
class _Start:
    """The first latents at the noise level of the first of `timesteps`, and what keeps unmasked parts as they are."""

    timesteps: Tensor
    latents: Tensor
    blend: Blend | None = None
    inpaint_channels: Tensor | None = None

    @classmethod
    def of(cls, model: StableDiffusion, scheduler: Any, request: GenerationRequest, noise: Noise) -> _Start:
        if request.image is None:
            return cls.from_noise(model, scheduler, request, noise)
        return cls.from_image(model, scheduler, request, noise)

    @classmethod
    def from_noise(cls, model: StableDiffusion, scheduler: Any, request: GenerationRequest, noise: Noise) -> _Start:
        drawn = noise.like(_latent_shape(model, request), model.parts.unet)
        return cls(scheduler.timesteps, drawn * scheduler.init_noise_sigma)

    @classmethod
    def from_image(cls, model: StableDiffusion, scheduler: Any, request: GenerationRequest, noise: Noise) -> _Start:
        unet, size = model.parts.unet, (request.width or 0, request.height or 0)
        first = first_step(request.steps, request.strength) * scheduler.order
        timesteps = scheduler.timesteps[first:]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        assert request.image is not None
        picture = _pixels(request.image, size, unet) * 2 - 1
        source = _encode(model, picture, noise)
        drawn = noise.like(tuple(source.shape[1:]), unet)
        latents = scheduler.add_noise(source, drawn, timesteps[:1].repeat(len(source)))
        if request.mask is None:
            return cls(timesteps, latents)
        if request.strength == 1:  # nothing of the source remains under the mask
            latents = drawn * scheduler.init_noise_sigma
        mask = (_pixels(request.mask.convert("L"), size, unet) >= 0.5).to(unet.dtype)
        small = torch.nn.functional.interpolate(mask, size=source.shape[2:])
        if unet.config.in_channels == source.shape[1]:
            return cls(timesteps, latents, blend=Blend(source, drawn, small))
        masked = _encode(model, picture * (mask < 0.5), noise)
        channels = torch.cat([small.expand(len(masked), -1, -1, -1), masked], dim=1)
        return cls(timesteps, latents, inpaint_channels=channels)


def _latent_shape(model: StableDiffusion, request: GenerationRequest) -> tuple[int, int, int]:
    vae = model.parts.vae.config
    factor = 2 ** (len(vae.block_out_channels) - 1)
    return vae.latent_channels, (request.height or 0) // factor, (request.width or 0) // factor


def _pixels(image: Image.Image, size: tuple[int, int], unet: Any) -> Tensor:
    """A picture as a tensor (1, channels, height, width) in 0 … 1, resized if need be."""
    resized = image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)
    array = np.asarray(resized if resized.mode == "L" else resized.convert("RGB"), dtype=np.float32) / 255.0
    return torch.from_numpy(np.atleast_3d(array).transpose(2, 0, 1))[None].to(unet.device, unet.dtype)


def _encode(model: StableDiffusion, pixels: Tensor, noise: Noise) -> Tensor:
    """pixels (1, 3, h, w) in −1 … 1 to latents (n, c, h/8, w/8): one draw from the VAE's posterior for each picture."""
    vae = model.parts.vae
    posterior = vae.encode(pixels.to(vae.dtype)).latent_dist
    drawn = torch.cat([posterior.sample(generator) for generator in noise.generators])
    latents: Tensor = (vae.config.scaling_factor * drawn).to(model.parts.unet.dtype)
    return latents


@torch.inference_mode()
def decode(model: StableDiffusion, latents: Tensor, tiling: bool) -> Image.Image:
    """Latents (1, c, h, w) to the picture: RGB, 8 bits. With `tiling` in tiles, for less memory."""
    vae = model.parts.vae
    if tiling:
        vae.enable_tiling()
    try:
        pixels = vae.decode((latents / vae.config.scaling_factor).to(vae.dtype), return_dict=False)[0]
    finally:
        vae.disable_tiling()
    array = (pixels * 0.5 + 0.5).clamp(0, 1)[0].permute(1, 2, 0).float().cpu().numpy()
    return Image.fromarray((array * 255).round().astype("uint8"), "RGB")
