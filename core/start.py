"""What a run begins with: scheduler, timesteps, first latents, and what pictures and networks add to the loop."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import diffusers
import numpy as np
import scipy.stats
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
    """Each picture's own noise, from the CPU: picture k of a batch draws what a single run of its seed draws."""

    generators: list[torch.Generator]

    @classmethod
    def of(cls, request: GenerationRequest) -> Noise:
        assert request.seed is not None
        seeds = range(request.seed, request.seed + request.batch_size)
        return cls([torch.Generator("cpu").manual_seed(seed) for seed in seeds])

    def like(self, shape: tuple[int, ...], unet: Any) -> Tensor:
        noise: Tensor = randn_tensor((len(self.generators), *shape), self.generators, unet.device, unet.dtype)
        return noise


def make_scheduler(request: GenerationRequest, config: Mapping[str, Any], device: Any) -> Any:
    """A fresh scheduler, its timesteps set: the checkpoint's noise levels (`config`), the sampler's method."""
    assert request.sampler is not None
    assert request.seed is not None
    sampler = SAMPLERS[request.sampler]
    scheduler_class = getattr(diffusers, sampler.scheduler)
    options = dict(sampler.config)
    if "noise_sampler_seed" in inspect.signature(scheduler_class).parameters:  # DPM++ SDE takes no generators
        options["noise_sampler_seed"] = [request.seed + k for k in range(request.batch_size)]
    levels = {key: value for key, value in config.items() if key not in SCHEDULES + SOLVER}
    scheduler = scheduler_class.from_config(levels, **options)
    if sampler.beta_timesteps:
        scheduler.set_timesteps(timesteps=beta_timesteps(request.steps, len(scheduler.alphas_cumprod)), device=device)
    else:
        scheduler.set_timesteps(request.steps, device=device)
    return scheduler


def beta_timesteps(steps: int, trained: int) -> list[int]:
    """`steps` falling timesteps below `trained`, dense at both ends: quantiles of Beta(0.6, 0.6).

    Lee et al. 2024, "Beta Sampling is All You Need", https://arxiv.org/abs/2407.12173.
    """
    quantiles = scipy.stats.beta.ppf(1 - np.arange(steps) / steps, 0.6, 0.6)
    rank = np.arange(steps)
    falling = np.minimum.accumulate(np.rint(quantiles * (trained - 1)) + rank) - rank  # no timestep twice
    return [int(t) for t in np.maximum(falling, steps - 1 - rank)]


@torch.inference_mode()
def prepare(
    model: StableDiffusion, prompts: Sequence[EncodedPrompt], request: GenerationRequest, nets: Sequence[Any]
) -> Denoising:
    """Everything the loop needs for a resolved `request`. `nets` are the loaded ControlNets of `request.controls`."""
    assert request.width
    assert request.height
    assert request.guidance_scale is not None
    unet, size = model.parts.unet, (request.width, request.height)
    scheduler = make_scheduler(request, model.parts.scheduler_config, unet.device)
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
            drawn = noise.like(_latent_shape(model, request), model.parts.unet)
            return cls(scheduler.timesteps, drawn * scheduler.init_noise_sigma)
        first = first_step(request.steps, request.strength) * scheduler.order
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        size = (request.width or 0, request.height or 0)
        picture = _pixels(request.image, size, model.parts.unet) * 2 - 1
        timesteps = scheduler.timesteps[first:]
        if request.mask is None:
            source = _encode(model, picture, noise)
            drawn = noise.like(tuple(source.shape[1:]), model.parts.unet)
            return cls(timesteps, scheduler.add_noise(source, drawn, timesteps[:1].repeat(len(source))))
        mask = (_pixels(request.mask.convert("L"), size, model.parts.unet) >= 0.5).to(picture.dtype)
        return cls.masked(model, scheduler, _Masked(picture, mask, timesteps, request.strength), noise)

    @classmethod
    def masked(cls, model: StableDiffusion, scheduler: Any, task: _Masked, noise: Noise) -> _Start:
        """Inpainting. The order of the draws is diffusers': source, noise, masked source, each only if it is used."""
        unet, timesteps = model.parts.unet, task.timesteps
        knows_masks = unet.config.in_channels > model.parts.vae.config.latent_channels
        small = _shrink(task.mask, model)
        from_noise = task.strength == 1  # then nothing of the source remains under the mask
        if not (knows_masks and from_noise):
            source = _encode(
                model, task.picture, noise
            ).contiguous()  # the layout decides the convolutions' last bits
        drawn = noise.like((model.parts.vae.config.latent_channels, *small.shape[2:]), unet)
        if from_noise:
            latents = drawn * scheduler.init_noise_sigma
        else:
            latents = scheduler.add_noise(source, drawn, timesteps[:1].repeat(len(source)))
        if not knows_masks:
            return cls(timesteps, latents, blend=Blend(source, drawn, small))
        masked = _encode(model, task.picture * (task.mask < 0.5), noise)
        channels = torch.cat([small.expand(len(masked), -1, -1, -1), masked], dim=1)
        return cls(timesteps, latents, inpaint_channels=channels)


@dataclass(frozen=True)
class _Masked:
    """picture: (1, 3, h, w) in −1 … 1; mask: (1, 1, h, w), 0 or 1."""

    picture: Tensor
    mask: Tensor
    timesteps: Tensor
    strength: float


def _shrink(mask: Tensor, model: StableDiffusion) -> Tensor:
    """A mask in pixels to one in latents, as diffusers does: the nearest pixel decides."""
    return torch.nn.functional.interpolate(mask, scale_factor=1 / _vae_scale(model.parts.vae))


def _vae_scale(vae: Any) -> int:
    """Pixels a latent, along each side: 8 for every Stable Diffusion."""
    scale: int = 2 ** (len(vae.config.block_out_channels) - 1)
    return scale


def _latent_shape(model: StableDiffusion, request: GenerationRequest) -> tuple[int, int, int]:
    scale = _vae_scale(model.parts.vae)
    return model.parts.vae.config.latent_channels, (request.height or 0) // scale, (request.width or 0) // scale


def _pixels(image: Image.Image, size: tuple[int, int], unet: Any) -> Tensor:
    """A picture as a tensor (1, channels, height, width) in 0 … 1, resized if need be."""
    resized = image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)
    array = np.asarray(resized if resized.mode == "L" else resized.convert("RGB"), dtype=np.float32) / 255.0
    return torch.from_numpy(np.atleast_3d(array)[None].transpose(0, 3, 1, 2)).to(unet.device, unet.dtype)


def _encode(model: StableDiffusion, pixels: Tensor, noise: Noise) -> Tensor:
    """pixels (1, 3, h, w) in −1 … 1 to latents (n, c, h/8, w/8), drawn from the VAE's posterior for each picture."""
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
