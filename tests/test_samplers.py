"""The table names schedulers that exist, with settings that they know."""

from __future__ import annotations

import inspect

import diffusers
import pytest

from core.request.generation import GenerationRequest
from core.samplers import SAMPLERS, canonical_name


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_row_fits_its_scheduler(name: str) -> None:
    sampler = SAMPLERS[name]
    known = inspect.signature(getattr(diffusers, sampler.scheduler).__init__).parameters
    assert sampler.config.keys() <= known.keys()


def test_the_ones_people_know_are_there() -> None:
    known = {"Euler", "Euler a", "LMS", "Heun", "DPM2", "DPM2 a", "DPM++ 2M", "DPM++ 2M SDE", "DPM++ 3M", "DPM++ SDE"}
    known |= {"UniPC", "DEIS", "DDIM", "DDPM", "PLMS", "LCM", "TCD", "DPM++ 2M Karras", "DPM++ 2M SDE Exponential"}
    assert known <= SAMPLERS.keys()


def test_an_alias_becomes_the_tables_own_name() -> None:
    assert GenerationRequest(sampler="k_dpmpp_2m Karras").sampler == "DPM++ 2M Karras"
    assert canonical_name("Euler") == "Euler"
    assert canonical_name("nothing") is None


def test_no_alias_is_taken_twice_or_hides_a_name() -> None:
    aliases = [alias for sampler in SAMPLERS.values() for alias in sampler.aliases]
    assert len(aliases) == len(set(aliases))
    assert not set(aliases) & SAMPLERS.keys()
