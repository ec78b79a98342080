"""Models of flow matching: what samplers do with them, and diffusers' schedulers under the names that the loop uses.

Such a model is told its noise level σ as a timestep of 1000 · σ, its input is σ · noise + (1 − σ) · x0, and it
predicts noise − x0 (Esser et al. 2024, "Scaling Rectified Flow Transformers", https://arxiv.org/abs/2403.03206).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import diffusers
import numpy as np
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler
from torch import Tensor

from core.request import GenerationRequest
from core.samplers import EVEN_SIGMAS, FLOW


class _Flow:
    """What schedulers of noise have and those of flow matching do not."""

    init_noise_sigma = 1.0

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor:
        return sample

    def add_noise(self, original: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        noisy: Tensor = self.scale_noise(original, timesteps, noise)  # type: ignore[attr-defined]
        return noisy


class FlowEuler(_Flow, FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
    pass


class FlowHeun(_Flow, FlowMatchHeunDiscreteScheduler):  # type: ignore[misc]
    pass


PATCH = 16  # pixels, along each side
KNOWN = ("num_train_timesteps", "shift", "use_dynamic_shifting")
OURS: Mapping[str, Any] = {"FlowMatchEulerDiscreteScheduler": FlowEuler, "FlowMatchHeunDiscreteScheduler": FlowHeun}


def flow_scheduler(request: GenerationRequest, levels: Mapping[str, Any], device: Any) -> Any:
    """The scheduler of a request's sampler for the noise `levels` of a model of flow matching, its timesteps set."""
    assert request.sampler
    name, moving = FLOW[request.sampler], bool(levels.get("use_dynamic_shifting"))
    mu = _mu(levels, request.work_size) if moving else 0.0
    if name not in OURS:
        shift = math.exp(mu) if moving else levels["shift"]
        options = {"use_flow_sigmas": True, "flow_shift": shift, "prediction_type": "flow_prediction"}
        scheduler = getattr(diffusers, name)(**options)
        scheduler.set_timesteps(request.steps, device=device)
        return scheduler
    scheduler = OURS[name].from_config({key: value for key, value in levels.items() if key in KNOWN})
    even = {"sigmas": np.linspace(1.0, 1 / request.steps, request.steps)} if levels.get(EVEN_SIGMAS) else {}
    scheduler.set_timesteps(request.steps, device=device, **even, **({"mu": mu} if moving else {}))
    return scheduler


def _mu(levels: Mapping[str, Any], size: tuple[int, int]) -> float:
    """The logarithm of how far sigmas are moved towards 1: the farther the larger the picture is. A straight line
    through `base_shift` and `max_shift` at so many patches.
    """
    patches = size[0] // PATCH * (size[1] // PATCH)
    few, many = levels.get("base_image_seq_len", 256), levels.get("max_image_seq_len", 4096)
    low, high = levels.get("base_shift", 0.5), levels.get("max_shift", 1.15)
    slope = (high - low) / (many - few)
    return float(patches * slope + (low - slope * few))
