"""What a distilled model is run with: few steps, hardly any guidance, its own sampler. Told by its name or config."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

NO_GUIDANCE = 1.0
TRAILING = {"timestep_spacing": "trailing"}  # such models were trained from the very last noise level on


@dataclass(frozen=True)
class FewSteps:
    """How models distilled in one way are run. `marks` stand in their names, as words; `scheduler` in their config.

    `levels` are what a single file's noise levels have otherwise than ordinary ones.
    """

    marks: str
    sampler: str
    steps: int
    levels: Mapping[str, Any]
    scheduler: str = ""
    guidance_scale: float = NO_GUIDANCE


FEW_STEPS = (
    FewSteps("lightning", "Euler", 4, TRAILING),  # https://huggingface.co/ByteDance/SDXL-Lightning
    FewSteps("turbo", "Euler a", 4, TRAILING),  # https://huggingface.co/stabilityai/sdxl-turbo
    FewSteps("schnell", "Euler", 4, {}),  # https://huggingface.co/black-forest-labs/FLUX.1-schnell
    FewSteps("lcm", "LCM", 4, {}, "LCMScheduler"),  # https://huggingface.co/latent-consistency/lcm-sdxl
    FewSteps(
        "hyper(?![-_ ]?real)|hypersd|tcd", "TCD", 8, TRAILING, "TCDScheduler"
    ),  # https://huggingface.co/ByteDance/Hyper-SD
    FewSteps("dmd|dmd2", "LCM", 4, {}),  # https://huggingface.co/tianweiy/DMD2
)


def few_steps(name: str, scheduler: str = "") -> FewSteps | None:
    """How a model of that name, with a scheduler of that class, is run if it is distilled.

    Steps that the name says win: "sdxl_lightning_8step".
    """
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    for kind in FEW_STEPS:
        if (scheduler and scheduler == kind.scheduler) or re.search(rf"(?<![a-z])({kind.marks})(?![a-z])", words):
            said = re.search(r"(?<!\d)([1-9]|1\d)[-_ ]?steps?(?![a-z])", words)
            return replace(kind, steps=int(said[1])) if said else kind
    return None
