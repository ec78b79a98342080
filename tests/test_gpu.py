"""Every kind of run on a pretended GPU: nothing is left in RAM that it needs, or there that numpy wants."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from PIL import Image
from safetensors.torch import save_file

from core import Control, Engine, Finished, GenerationRequest, Hires, Lora, Outpaint, Settings
from core.memory import machine
from core.memory.planning import WAYS, Way
from core.samplers import SAMPLERS
from tests import loras, tiny
from tests.diffusion.test_passes import swin2sr
from tests.pretended import gpu

FAMILIES = ("sd", "sdxl", "sd3", "flux")
SOURCE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
MASK = Image.new("L", (64, 64))
MASK.paste(255, (16, 16, 48, 48))
ONE_OF_EACH = {row.scheduler: name for name, row in reversed(SAMPLERS.items())}
del ONE_OF_EACH["DPMSolverSDEScheduler"]  # its noise comes from the GPU's own generator
del ONE_OF_EACH["KDPM2DiscreteScheduler"]  # slow here, and nearly the ancestral one
OF_SD: dict[str, dict[str, Any]] = {
    "prompts": {"prompt": "(ink:1.2) AND a [cat|dog] BREAK red", "batch_size": 2, "clip_skip": 2},
    "outpaint": {"image": SOURCE, "outpaint": Outpaint(left=16)},
    "lora": {"loras": [Lora(name="ink")]},
    "net": {"controls": [Control(net="net", image=SOURCE, preprocessor="canny")]},
    "hires": {"hires": Hires(upscaler="double", strength=0.6)},
    "latent": {"hires": Hires(upscaler="Latent", strength=0.6)},
    "vae": {"vae": "other"},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name in FAMILIES:
        getattr(tiny, name)().save_pretrained(folder / "checkpoints" / name)
    pipeline = tiny.sd()
    tiny.controlnet(pipeline.unet).save_pretrained(folder / "controlnet" / "net")
    tiny.vae().save_pretrained(folder / "vae" / "other")
    loras.write(folder / "loras" / "ink.safetensors", loras.lora(loras.of(pipeline), 1))
    swin2sr(folder / "upscalers" / "double")
    (folder / "embeddings").mkdir()
    save_file({"emb_params": torch.ones(2, 32)}, folder / "embeddings" / "ink.safetensors")
    AutoencoderTiny(
        encoder_block_out_channels=(16,),
        decoder_block_out_channels=(16,),
        num_encoder_blocks=(1,),
        num_decoder_blocks=(1,),
    ).save_pretrained(folder / "previews" / "taesd")
    return folder


@pytest.fixture(scope="module")
def cpu(models: Path) -> Engine:
    return Engine(Settings(models=models, device="cpu"))


@pytest.fixture
def pretended(models: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """In float32, for the CPU's own pictures."""
    found = machine._cuda
    monkeypatch.setattr(machine, "_cuda", lambda device: replace(found(device), dtype="float32"))
    with gpu():
        yield Engine(Settings(models=models, device="cuda:0"))


def draw(engine: Engine, **fields: Any) -> np.ndarray:
    usual = {"prompt": "a cat", "seed": 7, "steps": 2, "width": 64, "height": 64, "checkpoint": "sd"}
    *_, last = engine.generate(GenerationRequest(**{**usual, **fields}))
    assert isinstance(last, Finished)
    return np.stack([np.asarray(image, int) for image in last.images])


@pytest.mark.parametrize("task", ["text", "image", "inpaint"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_task_of_every_family(pretended: Engine, cpu: Engine, family: str, task: str) -> None:
    given = {"image": SOURCE, "mask": MASK, "strength": 0.6}
    of = {"text": (), "image": ("image", "strength"), "inpaint": tuple(given)}[task]
    fields = {"checkpoint": family, **{name: given[name] for name in of}}
    assert np.abs(draw(pretended, **fields) - draw(cpu, **fields)).max() <= 1


@pytest.mark.parametrize("fields", OF_SD.values(), ids=OF_SD)
def test_what_joins_a_run(pretended: Engine, cpu: Engine, fields: dict[str, Any]) -> None:
    assert np.abs(draw(pretended, **fields) - draw(cpu, **fields)).max() <= 1


@pytest.mark.parametrize("sampler", ONE_OF_EACH.values())
def test_every_scheduler(pretended: Engine, cpu: Engine, sampler: str) -> None:
    assert np.abs(draw(pretended, sampler=sampler, steps=3) - draw(cpu, sampler=sampler, steps=3)).max() <= 1


@pytest.mark.parametrize("family", ["sd", "sd3"])
@pytest.mark.parametrize("way", WAYS[1:], ids=lambda way: way.words)
def test_every_way_through_memory(pretended: Engine, cpu: Engine, through: Any, family: str, way: Way) -> None:
    expected = draw(cpu, checkpoint=family)
    with through(way):
        assert np.abs(draw(pretended, checkpoint=family) - expected).max() <= 1
    assert np.abs(draw(pretended, checkpoint=family) - expected).max() <= 1  # and back again


def test_models_wait_in_ram_while_another_has_the_gpu(
    pretended: Engine, cpu: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(pretended)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 24 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 24 << 30)
    for family, others in (("sdxl", {"sd", "previews"}), ("sd", {"sdxl"})):
        assert np.abs(draw(pretended, checkpoint=family) - draw(cpu, checkpoint=family)).max() <= 1
        waiting = {part.name.split("/")[0] for part in pretended.loaded() if part.device == "cpu"}
        assert waiting == others


def test_a_run_out_of_memory_goes_on_with_less(
    pretended: Engine, cpu: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from core.diffusion import decoding

    real, calls = decoding.decode, []

    def once(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 1:
            raise torch.OutOfMemoryError
        return real(*given)

    monkeypatch.setattr(decoding, "decode", once)
    assert np.abs(draw(pretended) - draw(cpu)).max() <= 1
    assert len(calls) == 3
