"""The one reader of weights: what it gives is from_pretrained's, bit for bit, and no change on disk gets past it."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    DepthAnythingForDepthEstimation,
    DPTConfig,
    DPTForDepthEstimation,
    Swin2SRConfig,
    Swin2SRForImageSuperResolution,
    T5Config,
    T5EncoderModel,
    VitPoseForPoseEstimation,
)

from core import Engine, GenerationRequest, Lora, Settings
from core.errors import CheckpointError, LoraError
from core.library import weights
from core.library.checkpoints import scan
from core.library.headers import shards
from core.library.part_loading import load_part
from core.library.parts import Part, sole_part
from core.memory.cache import ModelCache
from tests import ldm, loras, tiny
from tests.control.test_detectors import depth_anything, vitpose
from tests.library.test_single_file import T5, pipeline

pytestmark = pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")  # diffusers' own use
DTYPES = ("float32", "float16", "bfloat16")
NARROW = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
QUICK = {"prompt": "a cat", "seed": 1, "steps": 1, "width": 64, "height": 64, "sampler": "Euler"}


def dpt() -> DPTForDepthEstimation:
    shape = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 37}
    sees = {"image_size": 32, "patch_size": 16, "backbone_out_indices": [0, 1, 2, 3], "is_hybrid": False}
    neck = {"neck_hidden_sizes": [8, 8, 16, 16], "fusion_hidden_size": 8}
    return DPTForDepthEstimation(DPTConfig(**shape, **sees, **neck))


def swin2sr() -> Swin2SRForImageSuperResolution:
    shape = {"embed_dim": 12, "depths": [1], "num_heads": [2], "image_size": 16, "window_size": 4, "upscale": 2}
    return Swin2SRForImageSuperResolution(Swin2SRConfig(**shape))


MADE: dict[str, Callable[[], Any]] = {
    "UNet2DConditionModel": tiny.unet,
    "SD3Transformer2DModel": lambda: tiny.sd3(t5=False, dual_attention_layers=(0,), qk_norm="rms_norm").transformer,
    "FluxTransformer2DModel": lambda: tiny.flux().transformer,
    "ControlNetModel": lambda: tiny.controlnet(tiny.unet()),
    "ControlNetUnionModel": lambda: tiny.union(tiny.unet(**tiny.XL)),
    "SD3ControlNetModel": lambda: tiny.sd3_controlnet(tiny.sd3(t5=False).transformer),
    "FluxControlNetModel": lambda: tiny.flux_controlnet(tiny.flux().transformer),
    "AutoencoderKL": tiny.vae,
    "AutoencoderTiny": lambda: AutoencoderTiny(**NARROW, num_encoder_blocks=(1,) * 4, num_decoder_blocks=(1,) * 4),
    "CLIPTextModel": lambda: CLIPTextModel(tiny.text_config()),
    "CLIPTextModelWithProjection": lambda: CLIPTextModelWithProjection(tiny.text_config(projection_dim=32)),
    "T5EncoderModel": lambda: T5EncoderModel(T5Config(**T5 | {"vocab_size": 64})),
    "Swin2SRForImageSuperResolution": swin2sr,
    "DPTForDepthEstimation": dpt,
}
WRITTEN = {
    "DepthAnythingForDepthEstimation": (depth_anything, DepthAnythingForDepthEstimation),
    "VitPoseForPoseEstimation": (vitpose, VitPoseForPoseEstimation),
}


def save(class_name: str, folder: Path, **options: Any) -> Any:
    """The class, of which a tiny model is in `folder` then."""
    if class_name in WRITTEN:
        write, kind = WRITTEN[class_name]
        write(folder)
        return kind
    torch.manual_seed(0)
    made = MADE[class_name]()
    (made.half() if "variant" in options else made).save_pretrained(folder, **options)
    return type(made)


def compare(part: Part, theirs: Any, dtype: str) -> None:
    """All that a model holds, its buffers too, is theirs."""
    ours = load_part(part, "cpu", dtype)
    held = [{**model.state_dict(), **dict(model.named_buffers())} for model in (ours, theirs)]
    assert held[0].keys() == held[1].keys()
    for key, tensor in held[0].items():
        assert tensor.dtype == held[1][key].dtype, key
        assert torch.equal(tensor, held[1][key]), key
    assert not (ours.training or any(parameter.requires_grad for parameter in ours.parameters()))


@pytest.mark.parametrize("class_name", [*MADE, *WRITTEN])
def test_a_folder_gives_what_from_pretrained_gives(tmp_path, class_name):
    kind = save(class_name, tmp_path)
    part = sole_part("x", tmp_path, (class_name,))
    for dtype in DTYPES:
        compare(part, kind.from_pretrained(tmp_path, dtype=getattr(torch, dtype)), dtype)


@pytest.mark.parametrize("class_name", ["UNet2DConditionModel", "AutoencoderKL", "CLIPTextModel", "T5EncoderModel"])
@pytest.mark.parametrize("options", [{"variant": "fp16"}, {"max_shard_size": "40KB"}], ids=["fp16", "shards"])
def test_halves_and_shards_give_what_from_pretrained_gives(tmp_path, class_name, options):
    kind = save(class_name, tmp_path, **options)
    part = sole_part("x", tmp_path, (class_name,))
    assert len(shards(part.weights)) > 1 or "variant" in options
    for dtype in DTYPES[:2]:
        theirs = kind.from_pretrained(tmp_path, dtype=getattr(torch, dtype), variant=options.get("variant"))
        compare(part, theirs, dtype)


OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
FORMER = {
    "AutoencoderKL": lambda key: "".join(OLD.get(name, name) for name in _split(key)),
    "CLIPTextModel": lambda key: f"text_model.{key}",
    "CLIPTextModelWithProjection": lambda key: key.removeprefix("text_model."),
    "Swin2SRForImageSuperResolution": lambda key: key.replace("LayerNorm.weight", "LayerNorm.gamma"),
}
"""Keys as older libraries wrote them."""


def _split(key: str) -> list[str]:
    for name in OLD:
        before, found, after = key.partition(f".{name}.")
        if found:
            return [before, ".", name, ".", after]
    return [key]


@pytest.mark.parametrize("class_name", FORMER)
def test_old_names_and_tensors_that_nobody_wants_are_as_from_pretrained_has_them(tmp_path, class_name):
    kind = save(class_name, tmp_path)
    part = sole_part("x", tmp_path, (class_name,))
    state = {FORMER[class_name](key): tensor for key, tensor in load_file(part.weights).items()}
    assert state.keys() != load_file(part.weights).keys() or class_name == "Swin2SRForImageSuperResolution"
    save_file({**state, "text_model.embeddings.position_ids": torch.arange(32)}, part.weights, {"format": "pt"})
    compare(part, kind.from_pretrained(tmp_path), "float32")


def test_weights_that_the_libraries_would_not_load_are_left_alone(tmp_path):
    kind = save("UNet2DConditionModel", tmp_path)
    usual = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file(
        {key: tensor + 1 for key, tensor in load_file(usual).items()}, usual.with_suffix(".non_ema.safetensors")
    )
    part = sole_part("x", tmp_path, ("UNet2DConditionModel",))
    assert part.weights == usual
    compare(part, kind.from_pretrained(tmp_path), "float32")


@pytest.mark.parametrize("class_name", ["UNet2DConditionModel", "CLIPTextModel"])
@pytest.mark.parametrize("wrong", ["missing", "shape", "quantized"])
def test_what_does_not_fit_its_config_is_refused(tmp_path, class_name, wrong):
    save(class_name, tmp_path)
    part = sole_part("x", tmp_path, (class_name,))
    key, *_ = state = load_file(part.weights)
    if wrong == "quantized":
        config = json.loads((tmp_path / "config.json").read_text())
        quantized = {"quant_method": "bitsandbytes", "load_in_4bit": True}
        (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": quantized}))
    elif wrong == "shape":
        state[key] = torch.zeros(3)
    else:
        del state[key]
    save_file(state, part.weights, {"format": "pt"})
    with pytest.raises(CheckpointError, match="Model: its x is damaged or does not fit its config"):
        load_part(part, "cpu", "float32")


# Files that change while they are read


@contextmanager
def interrupted(monkeypatch: pytest.MonkeyPatch, path: Path, command: list[str]) -> Iterator[None]:
    """Another process runs before the third tensor of that file is read."""
    real, read = weights.safe_open, []

    class Opened:
        def __init__(self, path: Path, *given: Any, **options: Any) -> None:
            self._path, self._file = path, real(path, *given, **options)

        def __enter__(self) -> Opened:
            self._file.__enter__()
            return self

        def __exit__(self, *error: Any) -> None:
            self._file.__exit__(*error)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def get_tensor(self, name: str) -> torch.Tensor:
            read.append(self._path)
            if read.count(path) == min(3, len(self._file.keys())) and self._path == path and not done:
                done.append(subprocess.run(command, check=True))
            return self._file.get_tensor(name)

    done: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr(weights, "safe_open", Opened)
        yield
    assert done, "nothing was read by this reader"


CHANGES = {
    "cut short": lambda file, other: ["truncate", "-s", "2000", file],
    "emptied": lambda file, other: ["truncate", "-s", "0", file],
    "overwritten": lambda file, other: ["dd", f"if={other}", f"of={file}", "conv=notrunc", "status=none"],
    "replaced": lambda file, other: ["mv", other, file],
    "deleted": lambda file, other: ["rm", file],
}
KINDS = {
    "folder": ("unet/diffusion_pytorch_model.safetensors", "unet"),
    "folder of transformers": ("text_encoder/model.safetensors", "text_encoder"),
    "second shard": ("unet/*-00002-of-*.safetensors", "unet"),
    "single file": ("", "vae"),
    "single file for transformers": ("", "text_encoder"),
}


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    """A folder, one with shards, and a single file."""
    folder = tmp_path_factory.mktemp("library") / "checkpoints"
    tiny.sd().save_pretrained(folder / "folder")
    tiny.sd().save_pretrained(folder / "second shard", max_shard_size="700KB")
    ldm.save(pipeline("sd1"), "sd1", folder / "single file.safetensors")
    return folder.parent


def draw(engine: Engine, **fields: Any) -> bytes:
    *_, last = engine.generate(GenerationRequest(**{**QUICK, **fields}))
    return last.images[0].tobytes()


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_changes_while_it_loads_is_an_error_and_nothing_is_kept(
    library, tmp_path, monkeypatch, kind, change
):
    shutil.copytree(library, tmp_path / "models")
    file, name = KINDS[kind]
    checkpoint = next(each for each in scan(tmp_path / "models" / "checkpoints") if kind.startswith(each.title))
    (path,) = (tmp_path / "models" / "checkpoints").glob(f"{checkpoint.name}/{file}".rstrip("/"))
    part = next(part for part in checkpoint.parts if part.name == name)
    kept, other = shutil.copy2(path, tmp_path / "kept"), shutil.copy(path, tmp_path / "other")
    models, key, load = ModelCache(2**30), part.key, partial(load_part, part, "cpu", "float32")
    before = load()
    with (
        interrupted(monkeypatch, path, CHANGES[change](str(path), str(other))),
        pytest.raises(CheckpointError, match=rf"^Model: its {name} changed on disk while it was read; try again\.$"),
        models.use(key, 1, load),
    ):
        pass
    assert (key in models, models.size) == (False, 0)
    shutil.copy2(kept, path)
    with models.use(key, 1, load) as after:
        theirs = before.state_dict()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in after.state_dict().items())


def test_another_second_shard_is_another_model(library, tmp_path):
    shutil.copytree(library, tmp_path / "models")
    found = next(each for each in scan(tmp_path / "models" / "checkpoints") if each.name == "second shard")
    part = next(part for part in found.parts if part.name == "unet")
    before, second = part.key, part.files[1]
    save_file({key: tensor * 0.9 for key, tensor in load_file(second).items()}, second)
    assert part.key != before
    second.unlink()
    with pytest.raises(CheckpointError, match="Model: the file of its unet is no longer there; look for models"):
        _ = part.key


def test_the_run_after_a_model_was_overwritten_is_as_ever(library, tmp_path, monkeypatch):
    shutil.copytree(library, tmp_path / "models")
    path = tmp_path / "models" / "checkpoints" / "folder" / "unet" / "diffusion_pytorch_model.safetensors"
    kept = shutil.copy2(path, tmp_path / "kept")
    engine = Engine(Settings(models=tmp_path / "models", previews=False))
    with (
        interrupted(monkeypatch, path, ["truncate", "-s", "2000", str(path)]),
        pytest.raises(CheckpointError, match="Model: its unet changed on disk"),
    ):
        draw(engine, checkpoint="folder")
    shutil.copy2(kept, path)
    assert draw(engine, checkpoint="folder") == draw(Engine(Settings(models=library, previews=False)))


def test_loras_and_embeddings_that_change_while_they_are_read(tmp_path, monkeypatch):
    made = tiny.sd()
    made.save_pretrained(tmp_path / "checkpoints" / "mine")
    lora, word = tmp_path / "loras" / "ink.safetensors", tmp_path / "embeddings" / "inky.safetensors"
    loras.write(lora, loras.lora(loras.of(made), 1))
    loras.write(word, {"emb_params": torch.ones(2, 32)})
    engine, inked = Engine(Settings(models=tmp_path, previews=False)), {"loras": (Lora(name="ink"),)}
    draw(engine)
    for file, fields, message in (
        (lora, inked, "LoRA: ink changed on disk while it was read; try again."),
        (word, {"prompt": "inky"}, "Embedding: inky changed on disk while it was read; try again."),
    ):
        kept = shutil.copy2(file, tmp_path / "kept")
        with (
            interrupted(monkeypatch, file, ["truncate", "-s", "200", str(file)]),
            pytest.raises((LoraError, CheckpointError)) as told,
        ):
            draw(engine, **fields)
        assert str(told.value) == message
        shutil.copy2(kept, file)
        assert draw(engine, **fields) != draw(engine)


def test_no_file_of_weights_is_mapped(library, tmp_path):
    engine = Engine(Settings(models=library, previews=False))
    for checkpoint in engine.library.checkpoints():
        draw(engine, checkpoint=checkpoint.name)
    for name in ("AutoencoderTiny", "T5EncoderModel", *WRITTEN):
        save(name, tmp_path / name)
    held = [load_part(sole_part("x", folder, (folder.name,)), "cpu", "float32") for folder in tmp_path.iterdir()]
    assert len(held) == 4
    mapped = Path("/proc/self/maps").read_text()
    assert not any(str(folder) in mapped for folder in (library, tmp_path))


ALONE = """
import sys
from pathlib import Path
from core.memory.machine import PeakMeter, resident
from core.library.part_loading import load_part
from core.library.parts import sole_part

def load(folder, dtype):
    return load_part(sole_part("x", folder, ("UNet2DConditionModel", "T5EncoderModel")), "cpu", dtype)

folder = Path(sys.argv[1])
held = [load(folder / small, "bfloat16") for small in ("small-unet", "small-t5")]  # the libraries are in now
for name in ("unet", "t5"):
    for dtype in ("float32", "bfloat16"):
        peak = PeakMeter("cpu", resident())
        held.append(load(folder / name, dtype))
        print(peak.read())
"""


def test_the_peak_of_ram_is_the_weights_and_one_tensor(tmp_path):
    """The largest as the file has it, in single precision. What a process of its own frees goes back to the system at
    once, as the large tensors of real models do.
    """
    made = {
        "small-unet": tiny.unet(),
        "small-t5": MADE["T5EncoderModel"](),
        "unet": tiny.unet(block_out_channels=(160, 320), cross_attention_dim=768, norm_num_groups=32),
        "t5": T5EncoderModel(T5Config(vocab_size=8000, d_model=512, d_ff=1024, num_layers=6, num_heads=4)),
    }
    for name, model in made.items():
        model.save_pretrained(tmp_path / name)
    given = {"env": os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}, "capture_output": True, "check": True}
    done = subprocess.run([sys.executable, "-c", ALONE, tmp_path], **given)
    peaks = [int(line) for line in done.stdout.split()]
    for (name, size), peak in zip(itertools.product(("unet", "t5"), (4, 2)), peaks, strict=True):
        counts = [parameter.numel() for parameter in made[name].parameters()]
        assert 0.5 * size * sum(counts) < peak <= 1.05 * size * sum(counts) + 4 * max(counts), (name, size)
