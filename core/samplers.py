"""The samplers, as data: a name people know, and the diffusers scheduler with the settings that make it so.

The schedule of the noise levels is part of the name ("DPM++ 2M Karras"). Scheduler classes are named, not imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Sampler:
    """`scheduler` is a class of diffusers, `config` what it needs beyond the checkpoint's own scheduler config.

    `few_steps` marks samplers made for distilled models (LCM, TCD), which draw nothing good from ordinary ones.
    `most_steps` bounds the steps where the scheduler does. `beta_timesteps` spaces the timesteps as ComfyUI's and
    A1111's "Beta" do (diffusers' `use_beta_sigmas` spaces sigmas instead, and 20 steps then miss the colours).
    """

    scheduler: str
    config: Mapping[str, Any] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    few_steps: bool = False
    most_steps: int | None = None
    beta_timesteps: bool = False


SGM_UNIFORM = " SGM Uniform"  # timesteps from the very last level on, as models of few steps were distilled
_SIGMAS: Mapping[str, Mapping[str, Any]] = {
    "": {},
    " Karras": {"use_karras_sigmas": True},
    " Exponential": {"use_exponential_sigmas": True},
    SGM_UNIFORM: {"timestep_spacing": "trailing"},
}


def _with_schedules(name: str, scheduler: str, *aliases: str, **config: Any) -> dict[str, Sampler]:
    """One sampler under each schedule of noise levels that its scheduler knows."""
    return {
        name + suffix: Sampler(scheduler, {**config, **sigmas}, tuple(alias + suffix for alias in aliases))
        for suffix, sigmas in _SIGMAS.items()
    }


def _with_beta(name: str, scheduler: str, *aliases: str, **config: Any) -> dict[str, Sampler]:
    """The same, and Beta, for schedulers that take timesteps as given."""
    beta = Sampler(scheduler, config, tuple(alias + " Beta" for alias in aliases), beta_timesteps=True)
    return {**_with_schedules(name, scheduler, *aliases, **config), name + " Beta": beta}


SAMPLERS: Mapping[str, Sampler] = {
    **_with_beta("Euler", "EulerDiscreteScheduler", "k_euler"),
    "Euler a": Sampler("EulerAncestralDiscreteScheduler", aliases=("k_euler_a", "Euler Ancestral")),
    "Euler a" + SGM_UNIFORM: Sampler("EulerAncestralDiscreteScheduler", _SIGMAS[SGM_UNIFORM]),
    **_with_schedules("LMS", "LMSDiscreteScheduler", "k_lms"),
    **_with_schedules("Heun", "HeunDiscreteScheduler", "k_heun"),
    **_with_schedules("DPM2", "KDPM2DiscreteScheduler", "k_dpm_2"),
    **_with_schedules("DPM2 a", "KDPM2AncestralDiscreteScheduler", "k_dpm_2_a"),
    **_with_beta("DPM++ 2M", "DPMSolverMultistepScheduler", "k_dpmpp_2m", algorithm_type="dpmsolver++"),
    **_with_beta("DPM++ 2M SDE", "DPMSolverMultistepScheduler", "k_dpmpp_2m_sde", algorithm_type="sde-dpmsolver++"),
    **_with_beta("DPM++ 3M", "DPMSolverMultistepScheduler", algorithm_type="dpmsolver++", solver_order=3),
    **_with_schedules("DPM++ SDE", "DPMSolverSDEScheduler", "k_dpmpp_sde"),
    **_with_schedules("UniPC", "UniPCMultistepScheduler"),
    **_with_schedules("DEIS", "DEISMultistepScheduler"),
    "DDIM": Sampler("DDIMScheduler", {"clip_sample": False}),
    "DDPM": Sampler("DDPMScheduler", {"clip_sample": False}),
    "PLMS": Sampler("PNDMScheduler", {"skip_prk_steps": True}, aliases=("PNDM",)),
    "LCM": Sampler("LCMScheduler", few_steps=True, most_steps=50),
    "TCD": Sampler("TCDScheduler", few_steps=True, most_steps=50),
}

ZERO_SNR = frozenset(
    {
        "DDIMScheduler",
        "DDPMScheduler",
        "DPMSolverMultistepScheduler",
        "EulerAncestralDiscreteScheduler",
        "EulerDiscreteScheduler",
        "LCMScheduler",
        "TCDScheduler",
        "UniPCMultistepScheduler",
    }
)
"""Schedulers that can begin at pure noise, as models whose noise levels end there need it."""


FLOW: Mapping[str, str] = {
    "Euler": "FlowMatchEulerDiscreteScheduler",
    "Heun": "FlowMatchHeunDiscreteScheduler",
    "DPM++ 2M": "DPMSolverMultistepScheduler",
    "UniPC": "UniPCMultistepScheduler",
}
"""The samplers that models of flow matching have, by the same names, and the schedulers that do it there."""


EVEN_SIGMAS = "even_sigmas"
"""In a model's noise levels: before they are shifted, its sigmas go evenly from 1 down to 1 / steps, as FLUX's do."""


def is_flow(levels: Mapping[str, Any]) -> bool:
    """Whether a model's noise `levels` are those of flow matching: shifted, where others have betas."""
    return "shift" in levels


def usable(levels: Mapping[str, Any]) -> tuple[str, ...]:
    """The samplers that can follow a model's noise `levels`, the config of its scheduler."""
    if is_flow(levels):
        plain = not (levels.get(EVEN_SIGMAS) or levels.get("use_dynamic_shifting"))
        return tuple(name for name in FLOW if plain or name != "Heun")  # whose scheduler takes neither
    zero_snr = bool(levels.get("rescale_betas_zero_snr"))
    return tuple(name for name, sampler in SAMPLERS.items() if not zero_snr or sampler.scheduler in ZERO_SNR)


_ALIASES = {alias: name for name, sampler in SAMPLERS.items() for alias in sampler.aliases}


def canonical_name(name: str) -> str | None:
    """The table's own name for a sampler or one of its aliases; None if it is neither."""
    return name if name in SAMPLERS else _ALIASES.get(name)
