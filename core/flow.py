"""Models of flow matching: what samplers do with them, and diffusers' schedulers under the names that the loop uses.

Such a model is told its noise level σ as a timestep of 1000 · σ, its input is σ · noise + (1 − σ) · x0, and it
predicts noise − x0 (Esser et al. 2024, "Scaling Rectified Flow Transformers", https://arxiv.org/abs/2403.03206).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import diffusers
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler
from torch import Tensor

from core.samplers import FLOW


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


OURS = {"FlowMatchEulerDiscreteScheduler": FlowEuler, "FlowMatchHeunDiscreteScheduler": FlowHeun}


def flow_scheduler(sampler: str, levels: Mapping[str, Any]) -> Any:
    """The scheduler of a sampler for the noise `levels` of a model of flow matching."""
    name, shift = FLOW[sampler], levels.get("shift", 1.0)
    if name in OURS:
        return OURS[name](num_train_timesteps=levels.get("num_train_timesteps", 1000), shift=shift)
    options = {"use_flow_sigmas": True, "flow_shift": shift, "prediction_type": "flow_prediction"}
    return getattr(diffusers, name)(**options)
