"""What a run begins with: scheduler, timesteps, first latents, and what pictures and networks add to the loop."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import diffusers
import numpy as np
import scipy.stats
import torch
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor

from core.control import Detectors
from core.control.work import ControlUnit
from core.diffusion.denoise import Blend, Denoising, Guidance, Predict
from core.diffusion.flow import flow_scheduler
from core.diffusion.prompting import Prompts, weights
from core.families import pixels_a_latent, shift_of
from core.families.work import Conditioning, Model
from core.pictures.work import Canvas
from core.request import GenerationRequest, Pass, first_step
from core.samplers import SAMPLERS, is_flow

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

    def like(self, shape: tuple[int, ...], model: Model) -> Tensor:
        noise: Tensor = randn_tensor((len(self.generators), *shape), self.generators, model.device, model.dtype)
        return noise


def make_scheduler(request: GenerationRequest, config: Mapping[str, Any], device: Any) -> Any:
    """A fresh scheduler, its timesteps set: the checkpoint's noise levels (`config`), the sampler's method."""
    assert request.sampler is not None
    assert request.seed is not None
    if is_flow(config):
        return flow_scheduler(request, config, device)
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


@dataclass(frozen=True)
class Refining:
    """A refiner, and its own way with the prompts."""

    model: Model
    prompts: Prompts


@dataclass(frozen=True)
class Company:
    """What joins the model: the loaded ControlNets of a request's `controls`, in their order, what makes their maps,
    and the loaded refiner.
    """

    nets: Sequence[Any]
    detectors: Detectors
    refining: Refining | None = None


@torch.inference_mode()
def prepare(
    model: Model,
    prompts: Prompts,
    request: GenerationRequest,
    company: Company,
    source: Tensor | None = None,
) -> Denoising:
    """Everything the loop needs for a resolved `request`.

    `source` are latents (1, c, h, w) to take in place of the source picture's.
    """
    assert request.guidance_scale is not None
    canvas = Canvas(request)
    scheduler = make_scheduler(request, model.parts.scheduler_config, model.device)
    noise = Noise.of(request)
    start = _Start.of(_Ingredients(model, scheduler, noise, source), canvas)
    conditioning = prompts.conditioning(request, len(start.timesteps))
    predict: list[Predict] = [functools.partial(model.predict, told) for told in conditioning]
    handed_over = 1.0
    if company.refining and request.hires is None:  # else its second pass is refined
        handed_over, refined = _refine(company.refining, request, len(start.timesteps))
        predict[len(predict) - len(refined) :] = refined
    guided = request.predictions > 1
    guidance = Guidance(max(1.0, request.guidance_scale), weights(request)) if guided else Guidance()
    pictures = request.batch_size, guidance.predictions
    return Denoising(
        predict=predict,
        scheduler=scheduler,
        timesteps=start.timesteps,
        latents=start.latents,
        guidance=guidance,
        step_options=_step_options(scheduler, noise),
        controls=[unit.until(handed_over) for unit in _control_units(model, company, canvas, conditioning, pictures)],
        blend=start.blend,
        inpaint_channels=start.inpaint_channels,
    )


def _control_units(
    model: Model,
    company: Company,
    canvas: Canvas,
    conditioning: Sequence[Conditioning],
    pictures: tuple[int, int],
) -> Iterator[ControlUnit]:
    for net, unit in zip(company.nets, canvas.request.controls, strict=True):
        shown = _pixels(canvas.control(unit, company.detectors), model)
        yield ControlUnit.of(model.steering(net, unit, shown, math.prod(pictures)), unit, conditioning, pictures)


def _refine(refining: Refining, request: GenerationRequest, evaluations: int) -> tuple[float, list[Predict]]:
    """The share of the `evaluations` after which the refiner goes on, and its predictions from there."""
    told = refining.prompts.conditioning(request, evaluations)
    before = round(request.refiner_start * request.steps) - (request.steps - request.steps_run)
    rest = [told[k] for k in range(evaluations) if k * request.steps_run // evaluations >= before]
    predict: list[Predict] = [functools.partial(refining.model.predict, each) for each in rest]
    return (evaluations - len(rest)) / evaluations, predict


def _step_options(scheduler: Any, noise: Noise) -> dict[str, Any]:
    """What this scheduler's `step` takes beside the prediction; eta is 0, as the diffusers pipelines have it."""
    known = inspect.signature(scheduler.step).parameters
    options = {"generator": noise.generators, "eta": 0.0}
    return {name: value for name, value in options.items() if name in known}


@dataclass(frozen=True)
class _Ingredients:
    """`source`: latents (1, c, h, w) that stand in for the encoded picture."""

    model: Model
    scheduler: Any
    noise: Noise
    source: Tensor | None

    def encoded(self, picture: Tensor) -> Tensor:
        """The source picture's latents, one for each picture of the batch."""
        if self.source is not None:
            return self.source.expand(len(self.noise.generators), -1, -1, -1)
        return encode(self.model, picture, self.noise)

    def noisy(self, source: Tensor, drawn: Tensor, timesteps: Tensor) -> Tensor:
        latents: Tensor = self.scheduler.add_noise(source, drawn, timesteps[:1].repeat(len(source)))
        return latents


@dataclass(frozen=True)
class _Start:
    """The first latents at the noise level of the first of `timesteps`, and what keeps unmasked parts as they are."""

    timesteps: Tensor
    latents: Tensor
    blend: Blend | None = None
    inpaint_channels: Tensor | None = None

    @classmethod
    def of(cls, given: _Ingredients, canvas: Canvas) -> _Start:
        request, scheduler = canvas.request, given.scheduler
        if request.task == "text":
            drawn = given.noise.like(_latent_shape(given.model, request), given.model)
            return cls(scheduler.timesteps, drawn * scheduler.init_noise_sigma)
        first = first_step(request.steps, request.strength) * scheduler.order
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        timesteps = scheduler.timesteps[first:]
        picture = _pixels(canvas.picture, given.model) * 2 - 1
        if request.task == "inpaint":
            mask = _pixels(canvas.work_mask, given.model)
            return cls.masked(given, _Masked(picture, mask, timesteps, request.strength))
        source = given.encoded(picture)
        drawn = given.noise.like(tuple(source.shape[1:]), given.model)
        return cls(timesteps, given.noisy(source, drawn, timesteps))

    @classmethod
    def masked(cls, given: _Ingredients, task: _Masked) -> _Start:
        """Inpainting. The order of the draws is diffusers': source, noise, masked source, each only if it is used."""
        model, vae = given.model, given.model.parts.vae
        knows_masks = model.facts.knows_masks
        small = _shrink(task.mask, model)
        blends = task.is_grey or not knows_masks
        from_noise = task.strength == 1  # then nothing of the source remains under the mask
        if blends or not from_noise:
            source = given.encoded(task.picture).contiguous()  # the layout decides the convolutions' last bits
        drawn = given.noise.like((vae.config.latent_channels, *small.shape[2:]), given.model)
        latents = drawn * given.scheduler.init_noise_sigma
        if not from_noise:
            latents = given.noisy(source, drawn, task.timesteps)
        blend = Blend(source, drawn, small, task.timesteps) if blends else None
        if not knows_masks:
            return cls(task.timesteps, latents, blend)
        masked = encode(model, task.picture * (task.mask == 0), given.noise)
        painted = (small > 0).to(masked.dtype)
        return cls(
            task.timesteps, latents, blend, torch.cat([painted.expand(len(masked), -1, -1, -1), masked], dim=1)
        )


@dataclass(frozen=True)
class _Masked:
    """picture: (1, 3, h, w) in −1 … 1; mask: (1, 1, h, w) in 0 … 1."""

    picture: Tensor
    mask: Tensor
    timesteps: Tensor
    strength: float

    @property
    def is_grey(self) -> bool:
        return bool(((self.mask > 0) & (self.mask < 1)).any())


def _shrink(mask: Tensor, model: Model) -> Tensor:
    """A mask in pixels to one in latents, as diffusers does: the nearest pixel decides."""
    return torch.nn.functional.interpolate(mask, scale_factor=1 / pixels_a_latent(model.parts.vae.config))


def _latent_shape(model: Model, request: GenerationRequest) -> tuple[int, int, int]:
    scale, (width, height) = pixels_a_latent(model.parts.vae.config), request.work_size
    return model.parts.vae.config.latent_channels, height // scale, width // scale


def _pixels(image: Image.Image, model: Model) -> Tensor:
    """An RGB or "L" picture as a tensor (1, channels, height, width) in 0 … 1."""
    array = np.asarray(image, dtype=np.float32) / 255.0
    return torch.from_numpy(np.atleast_3d(array)[None].transpose(0, 3, 1, 2)).to(model.device, model.dtype)


def encode(model: Model, pixels: Tensor, noise: Noise) -> Tensor:
    """pixels (1, 3, h, w) in −1 … 1 to latents (n, c, h/8, w/8), drawn from the VAE's posterior for each picture."""
    vae = model.parts.vae
    posterior = vae.encode(pixels.to(vae.dtype)).latent_dist
    drawn = torch.cat([posterior.sample(generator) for generator in noise.generators])
    latents: Tensor = (vae.config.scaling_factor * (drawn - shift_of(vae))).to(model.dtype)
    return latents


@torch.inference_mode()
def source_latents(model: Model, request: GenerationRequest) -> Tensor:
    """(n, c, h, w): the source picture of a resolved `request`, for each picture of its batch."""
    return encode(model, _pixels(Canvas(request).picture, model) * 2 - 1, Noise.of(request))


@torch.inference_mode()
def enlarge(model: Model, latents: Tensor, request: GenerationRequest) -> Tensor:
    """Latents brought to the size that `request` works at."""
    return torch.nn.functional.interpolate(latents, _latent_shape(model, request)[1:], mode="bilinear")


def evaluations(model: Model, request: GenerationRequest, run: Pass) -> int:
    """How often the loop predicts in a pass of `request`: second-order samplers do so twice a step."""
    if not run.steps:
        return 0
    alike = GenerationRequest(sampler=request.sampler, steps=run.of, seed=0, width=run.size[0], height=run.size[1])
    scheduler = make_scheduler(alike, model.parts.scheduler_config, "cpu")
    return len(scheduler.timesteps) - (run.of - run.steps) * int(scheduler.order)
