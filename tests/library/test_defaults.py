"""Distilled models are known by name or config, and samplers by what they can follow."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path

import diffusers
import pytest

from core import Engine, GenerationRequest, Lora, Settings
from core.errors import RequestError
from core.library.checkpoints import scan
from core.library.few_steps import few_steps
from core.samplers import SAMPLERS, SGM_UNIFORM, ZERO_SNR, usable
from tests import ldm, tiny
from tests.library.test_single_file import pipeline


@pytest.mark.parametrize(
    ("name", "sampler", "steps"),
    [
        ("sdxl_lightning_4step", "Euler", 4),
        ("sdxl_lightning_8step", "Euler", 8),
        ("RealVisXL_V4.0_Lightning", "Euler", 4),
        ("sd_xl_turbo_1.0_fp16", "Euler a", 4),
        ("dreamshaperXL_v2TurboDpmppSDE", "Euler a", 4),
        ("LCM_Dreamshaper_v7", "LCM", 4),
        ("Hyper-SDXL-1step-Unet", "TCD", 1),
        ("dmd2_sdxl_4step_unet", "LCM", 4),
    ],
)
def test_names_tell(name: str, sampler: str, steps: int) -> None:
    found = few_steps(name)
    assert found
    assert (found.sampler, found.steps, found.guidance_scale) == (sampler, steps, 1.0)


@pytest.mark.parametrize(
    "name", ["pocket", "hyperrealistic_v2", "hyperRealism_30", "turbulence", "v1-5-pruned-emaonly", "steps20", ""]
)
def test_names_that_only_look_so_tell_nothing(name: str) -> None:
    assert few_steps(name) is None


def test_a_config_tells_too() -> None:
    found = few_steps("my-model", "LCMScheduler")
    assert found and found.sampler == "LCM"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    shutil.copytree(tiny.POCKET, tmp_path / "checkpoints" / "pocket-turbo")
    return tmp_path


def test_a_folders_card_goes_before_its_name(models: Path) -> None:
    folder = models / "checkpoints" / "pocket-turbo"
    (said,) = scan(folder.parent)
    assert (said.sampler, said.guidance_scale, said.steps) == ("DDIM", 2.5, 4)
    (folder / "darkroom.json").unlink()
    (told,) = scan(folder.parent)
    assert (told.sampler, told.guidance_scale, told.steps) == ("Euler a", 1.0, 4)


def test_a_sampler_of_its_kind_that_its_levels_cannot_have_is_not_chosen(tmp_path: Path) -> None:
    tiny.sd3().save_pretrained(tmp_path / "stable-diffusion-3.5-large-turbo")
    (found,) = scan(tmp_path)
    assert (found.sampler, found.guidance_scale, found.steps) == ("Euler", 1.0, 4)


def test_a_single_file_gets_the_noise_levels_of_its_kind(tmp_path: Path) -> None:
    ldm.save(pipeline("sd2"), "sd2", tmp_path / "sd_turbo.safetensors")
    (found,) = scan(tmp_path)
    assert found.problem is None
    assert (found.steps, found.guidance_scale, found.native_size) == (4, 1.0, 512)
    assert found.scheduler_config["timestep_spacing"] == "trailing"
    assert found.scheduler_config["prediction_type"] == "epsilon"


def test_the_table_says_which_schedulers_begin_at_pure_noise() -> None:
    """diffusers' own signatures are the oracle."""
    for scheduler in {sampler.scheduler for sampler in SAMPLERS.values()}:
        parameters = inspect.signature(getattr(diffusers, scheduler)).parameters
        assert (scheduler in ZERO_SNR) == ("rescale_betas_zero_snr" in parameters), scheduler


def test_a_lora_of_few_steps_brings_its_sampler_and_guidance(models: Path) -> None:
    (folder := models / "loras").mkdir()
    shutil.copy(
        tiny.POCKET.parents[1] / "loras" / "pocket-night.safetensors", folder / "my_lightning_8step.safetensors"
    )
    engine = Engine(Settings(models=models))
    asked = GenerationRequest(loras=[Lora(name="my_lightning_8step")])
    resolved = engine.library.resolve(asked)
    assert (resolved.sampler, resolved.guidance_scale) == ("Euler SGM Uniform", 1.0)
    kept = engine.library.resolve(asked.replace(sampler="Heun", guidance_scale=3.0))
    assert (kept.sampler, kept.guidance_scale) == ("Heun", 3.0)
    without = engine.library.resolve(GenerationRequest(loras=[Lora(name="my_lightning_8step", weight=0.0)]))
    assert (without.sampler, without.guidance_scale) == ("DDIM", 2.5)


def test_sgm_uniform_begins_at_the_last_level() -> None:
    """https://huggingface.co/ByteDance/SDXL-Lightning: "make sure to use trailing timesteps"."""
    plain = {"num_train_timesteps": 1000, "timestep_spacing": "leading", "steps_offset": 1}
    for name, sampler in SAMPLERS.items():
        if name.endswith(SGM_UNIFORM):
            made = getattr(diffusers, sampler.scheduler).from_config(plain, **sampler.config)
            made.set_timesteps(4)
            assert made.timesteps[0] == 999, name


def test_a_sampler_that_cannot_follow_a_model_is_refused_by_name(models: Path) -> None:
    config = models / "checkpoints" / "pocket-turbo" / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"rescale_betas_zero_snr": True}))
    engine = Engine(Settings(models=models))
    (model,) = engine.library.checkpoints()
    assert "LMS" not in model.samplers and "Euler" in model.samplers
    assert usable({}) == tuple(SAMPLERS)
    with pytest.raises(RequestError, match="Sampler: “LMS” is not allowed; use one of Euler, "):
        engine.library.resolve(GenerationRequest(sampler="LMS"))
