"""The loop. One generator denoises for every task and family; what differs was decided before it began.

Text, image, inpaint and ControlNet runs differ only in their first latents, their timesteps, what joins the U-Net's
input, the networks that steer it, and what is laid back after each step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from core.families.work import Residuals

FLOW_PREDICTION = "flow_prediction"
Steer = Callable[[Tensor, Tensor, tuple[int, int]], Residuals]
"""(model_input, timestep, (step, steps)) -> the residuals of one ControlNet; none outside its share of the steps."""
Predict = Callable[[Tensor, Tensor, Residuals], Tensor]
"""(model_input, timestep, residuals) -> what the model predicts."""


class Scheduler(Protocol):
    """What the loop needs of a diffusers scheduler."""

    timesteps: Tensor
    alphas_cumprod: Tensor
    config: Any

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor: ...
    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor, **options: Any) -> tuple[Tensor, ...]: ...
    def add_noise(self, original: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Blend:
    """Keeps the source where the mask is black, and where it is grey until its share of the steps is left.

    That share rule is Differential Diffusion's (Levin & Fried 2023, https://arxiv.org/abs/2306.00950). With black and
    white alone it is the plain blend that inpaints with models that know nothing of masks.

    source: latents of the source picture (n, c, h, w); noise: what the run began with (same shape);
    mask: (1, 1, h, w) in 0 … 1, how much of the picture may change; timesteps: the run's.
    """

    source: Tensor
    noise: Tensor
    mask: Tensor
    timesteps: Tensor

    def __call__(self, latents: Tensor, scheduler: Scheduler, done: int) -> Tensor:
        """`latents` after `done` of the steps, with the source, equally noisy, where they are not free yet."""
        kept, total = self.source, len(self.timesteps)
        if done < total:
            kept = scheduler.add_noise(kept, self.noise, self.timesteps[done].reshape(1))
        left = total - min(done, total - 1)
        free = (self.mask * total >= left).to(latents.dtype)
        return (1 - free) * kept + free * latents


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance (Ho & Salimans 2022, https://arxiv.org/abs/2207.12598): ε₀ + Σ wᵢ · scale · (εᵢ − ε₀).

    ε₀ is what the negative prompt predicts. Several prompts, each with its weight, add up as in Composable Diffusion
    (Liu et al. 2022, https://arxiv.org/abs/2206.01714). Without weights there is one prediction, which stands.
    """

    scale: float = 1.0
    weights: tuple[float, ...] = ()

    @property
    def predictions(self) -> int:
        """How many predictions a step needs: of the negative prompt first, then of each other."""
        return 1 + len(self.weights)

    def __call__(self, predicted: Tensor) -> Tensor:
        first, *others = predicted.chunk(self.predictions)
        guided = first
        for weight, other in zip(self.weights, others, strict=True):
            guided = guided + self.scale * weight * (other - first)
        return guided


@dataclass(frozen=True)
class Denoising:
    """One run, ready to go.

    predict: for each of `timesteps` the model that is asked then, with what it is told.
    latents: (n, c, h, w), already at the noise level of `timesteps[0]`.
    inpaint_channels: (n, 5, h, w), mask and masked latents, for 9-channel U-Nets.
    """

    predict: Sequence[Predict]
    scheduler: Scheduler
    timesteps: Tensor
    latents: Tensor
    guidance: Guidance
    step_options: Mapping[str, Any]
    controls: Sequence[Steer] = ()
    blend: Blend | None = None
    inpaint_channels: Tensor | None = None


@dataclass(frozen=True)
class Denoised:
    """After a step: `latents` at the next noise level; `x0`, the clean latents predicted at this one (n, c, h, w)."""

    latents: Tensor
    x0: Tensor = field(repr=False)


@torch.inference_mode()
def denoise(run: Denoising) -> Iterator[Denoised]:
    """Yields after every timestep; close it to cancel."""
    latents, total = run.latents, len(run.timesteps)
    for index, timestep in enumerate(run.timesteps):
        scaled = run.scheduler.scale_model_input(torch.cat([latents] * run.guidance.predictions), timestep)
        residuals = _steer(run.controls, scaled, timestep, (index, total))
        model_input = _with_inpaint_channels(scaled, run.inpaint_channels)
        prediction = run.guidance(run.predict[index](model_input, timestep, residuals))
        x0 = predict_x0(run.scheduler, timestep, scaled[: len(latents)], prediction)
        latents = run.scheduler.step(prediction, timestep, latents, **run.step_options, return_dict=False)[0]
        if run.blend:
            latents = run.blend(latents, run.scheduler, index + 1)
        yield Denoised(latents, x0)


def predict_x0(scheduler: Scheduler, timestep: Tensor, model_input: Tensor, prediction: Tensor) -> Tensor:
    """The clean latents that one prediction implies, the same way for every sampler.

    With flow matching x0 = x − σ·v, where σ is the timestep's share of all, see core/diffusion/flow.py.

    Else the U-Net always sees x = √ᾱ·x0 + √(1−ᾱ)·ε, whatever scale the sampler keeps its own latents at, so
    x0 = (x − √(1−ᾱ)·ε) / √ᾱ, or √ᾱ·x − √(1−ᾱ)·v (Salimans & Ho 2022, appendix D). Samplers that go between
    timesteps give fractions: log ᾱ is interpolated there.
    """
    kind = scheduler.config.get("prediction_type", FLOW_PREDICTION)
    x0: Tensor
    if kind == FLOW_PREDICTION:
        x0 = model_input - float(timestep) / scheduler.config.num_train_timesteps * prediction
    elif kind == "sample":
        x0 = prediction
    else:
        alpha, sigma = _shares(scheduler.alphas_cumprod, float(timestep))
        if kind == "v_prediction":
            x0 = alpha * model_input - sigma * prediction
        else:
            x0 = (model_input - sigma * prediction) / alpha
    return x0


def _shares(table: Tensor, timestep: float) -> tuple[float, float]:
    """√ᾱ and √(1−ᾱ), how much of picture and of noise there is at a timestep."""
    low = min(max(int(timestep), 0), len(table) - 1)
    high = min(low + 1, len(table) - 1)
    alpha_bar = torch.lerp(table[low].log(), table[high].log(), timestep - low).exp().item()
    return max(alpha_bar, 1e-8) ** 0.5, (1 - alpha_bar) ** 0.5


def _with_inpaint_channels(model_input: Tensor, extra: Tensor | None) -> Tensor:
    if extra is None:
        return model_input
    return torch.cat([model_input, extra.repeat(len(model_input) // len(extra), 1, 1, 1)], dim=1)


def _steer(controls: Sequence[Steer], model_input: Tensor, timestep: Tensor, progress: tuple[int, int]) -> Residuals:
    """The residuals of all ControlNets at work in this step, added up."""
    total: Residuals = ()
    for control in controls:
        residuals = control(model_input, timestep, progress)
        total = [a + b for a, b in zip(total, residuals, strict=True)] if total and residuals else total or residuals
    return total
