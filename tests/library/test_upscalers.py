"""ESRGAN upscalers as single files, in the spellings that are shared; the oracle is the paper in plain calls."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn.functional import conv2d, interpolate, leaky_relu, pixel_unshuffle

from core import Engine, Finished, GenerationRequest, Hires, Loading, Settings
from core.diffusion.enlarging import enlarged
from core.errors import CheckpointError, RequestError
from core.library.part_loading import load_part
from core.library.upscalers import find_upscaler, list_upscalers
from tests import tiny
from ui.desk.desk import OFFERED, Desk

BLOCKS, CHANNELS, GROWTH = 2, 8, 4


def weights(doublings: int = 2, folded: int = 1) -> dict[str, torch.Tensor]:
    """Random ones by Real-ESRGAN's names."""
    torch.manual_seed(3)
    inputs = {f"conv{k}": CHANNELS + (k - 1) * GROWTH for k in range(1, 6)}
    layers = {
        "conv_first": (3 * folded**2, CHANNELS),
        "conv_body": (CHANNELS, CHANNELS),
        "conv_hr": (CHANNELS, CHANNELS),
    }
    layers |= {f"conv_up{k + 1}": (CHANNELS, CHANNELS) for k in range(doublings)} | {"conv_last": (CHANNELS, 3)}
    for i in range(BLOCKS):
        for j in (1, 2, 3):
            dense = {k: (n, CHANNELS if k == "conv5" else GROWTH) for k, n in inputs.items()}
            layers |= {f"body.{i}.rdb{j}.{k}": shape for k, shape in dense.items()}
    state = {}
    for name, (before, after) in layers.items():
        state |= {
            f"{name}.weight": torch.randn(after, before, 3, 3) / (9 * before) ** 0.5,
            f"{name}.bias": torch.randn(after) / 9,
        }
    return state


def original(state: dict[str, torch.Tensor], doublings: int) -> dict[str, torch.Tensor]:
    """Under the names of the first ESRGAN, a sequence of numbered layers: 4x-UltraSharp's."""
    tail = {f"conv_up{k + 1}": f"model.{3 * (k + 1)}" for k in range(doublings)}
    tail |= {"conv_hr": f"model.{3 * doublings + 2}", "conv_last": f"model.{3 * doublings + 4}"}
    tail |= {"conv_first": "model.0", "conv_body": f"model.1.sub.{BLOCKS}"}

    def name(key: str) -> str:
        key = re.sub(r"body\.(\d)\.rdb(\d)\.conv(\d)", r"model.1.sub.\1.RDB\2.conv\3.0", key)
        layer, kind = key.rsplit(".", 1)
        return f"{tail.get(layer, layer)}.{kind}"

    return {name(key): tensor for key, tensor in state.items()}


def refactored(state: dict[str, torch.Tensor], _: int) -> dict[str, torch.Tensor]:
    """Under the names of the second code."""
    names = {"conv_body": "trunk_conv", "body.": "RRDB_trunk.", ".rdb": ".RDB"}
    names |= {"conv_up": "upconv", "conv_hr": "HRconv"}
    renamed = {}
    for key, tensor in state.items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        renamed[key] = tensor
    return renamed


def paper(state: dict[str, torch.Tensor], x: torch.Tensor, doublings: int, folded: int) -> torch.Tensor:
    def layer(name: str, value: torch.Tensor) -> torch.Tensor:
        return conv2d(value, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)

    first = block = layer("conv_first", pixel_unshuffle(x, folded))
    for i in range(BLOCKS):
        dense = block
        for j in (1, 2, 3):
            seen = [dense]
            for k in range(1, 5):
                seen.append(leaky_relu(layer(f"body.{i}.rdb{j}.conv{k}", torch.cat(seen, 1)), 0.2))
            dense = dense + 0.2 * layer(f"body.{i}.rdb{j}.conv5", torch.cat(seen, 1))
        block = block + 0.2 * dense
    x = first + layer("conv_body", block)
    for k in range(doublings):
        x = leaky_relu(layer(f"conv_up{k + 1}", interpolate(x, scale_factor=2, mode="nearest")), 0.2)
    return layer("conv_last", leaky_relu(layer("conv_hr", x), 0.2))


def save(state, path, prefix=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({prefix + key: tensor.contiguous() for key, tensor in state.items()}, path)


@pytest.mark.parametrize(
    ("spelling", "prefix", "doublings", "folded", "factor"),
    [
        (original, "", 2, 1, 4),
        (original, "", 1, 1, 2),
        (original, "", 3, 1, 8),
        (refactored, "", 2, 1, 4),
        (lambda state, _: state, "", 2, 1, 4),
        (lambda state, _: state, "params_ema.", 2, 2, 2),
        (lambda state, _: state, "", 2, 4, 1),
    ],
)
def test_it_is_the_papers_network(tmp_path, spelling, prefix, doublings, folded, factor):
    state = weights(doublings, folded)
    save(spelling(state, doublings), tmp_path / "4x-Sharp.safetensors", prefix)
    assert list_upscalers(tmp_path) == ("Lanczos", "Latent", "4x-Sharp")
    net = load_part(find_upscaler(tmp_path, "4x-Sharp"), "cpu", "float32")
    x = torch.rand(2, 3, 16, 24)
    with torch.inference_mode():
        assert torch.equal(net(pixel_values=x).reconstruction, paper(state, x, doublings, folded))
        odd = net(pixel_values=x[:, :, :15, :23]).reconstruction
    assert (net.config.upscale, odd.shape[2:]) == (factor, (15 * factor, 23 * factor))


def test_the_engine_enlarges_with_it(tmp_path):
    tiny.sd().save_pretrained(tmp_path / "checkpoints" / "tiny")
    save(original(weights(), 2), tmp_path / "upscalers" / "sharp" / "4x.safetensors")
    engine = Engine(Settings(models=tmp_path, device="cpu"))
    request = GenerationRequest(prompt="a cat", seed=1, steps=2, width=64, height=64)
    assert engine.library.upscalers() == ("Lanczos", "Latent", "4x")
    pictures = {}
    for name in ("Lanczos", "4x"):
        *happened, last = engine.generate(request.replace(hires=Hires(scale=2.0, upscaler=name, strength=0.5)))
        assert isinstance(last, Finished) and last.images[0].size == (128, 128)
        assert (Loading("4x") in happened) == (name == "4x")
        pictures[name] = last.images[0].tobytes()
    assert pictures["Lanczos"] != pictures["4x"]


def test_the_page_offers_what_came_since_it_started(tmp_path):
    tiny.sd().save_pretrained(tmp_path / "checkpoints" / "tiny")
    desk = Desk(Engine(Settings(models=tmp_path, device="cpu")), None, None, [])
    for there in ((), ("4x",)):
        shown = dict(zip(OFFERED, desk.offered("tiny"), strict=True))["hires.upscaler"]
        assert shown.choices == [(name, name) for name in ("Lanczos", "Latent", *there)]
        save(original(weights(), 2), tmp_path / "upscalers" / "4x.safetensors")


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (lambda state: state | {"model.1.sub.0.RDB1.conv1x1.0.weight": torch.zeros(1)}, "it is no ESRGAN"),
        (lambda state: {key: each for key, each in state.items() if "RDB2" not in key}, "it is no ESRGAN"),
        (lambda state: {"a": torch.zeros(1)}, "it is no ESRGAN"),
        (lambda state: {key: each[:1] if "sub" in key else each for key, each in state.items()}, None),
    ],
)
def test_another_network_is_refused(tmp_path, harm, problem):
    save(harm(original(weights(), 2)), tmp_path / "odd.safetensors")
    with pytest.raises(CheckpointError, match=problem or "does not fit its config"):
        load_part(find_upscaler(tmp_path, "odd"), "cpu", "float32")


def test_one_that_would_make_pictures_smaller_is_refused(tmp_path):
    save(weights(doublings=1, folded=4), tmp_path / "odd.safetensors")
    with pytest.raises(CheckpointError, match="it is no ESRGAN"):
        find_upscaler(tmp_path, "odd")


def test_pickles_and_unknown_names_are_refused(tmp_path):
    (tmp_path / "4x-UltraSharp.pth").write_bytes(b"PK\x03\x04")
    with pytest.raises(CheckpointError, match="4x-UltraSharp cannot be used: it is a pickle, which is never loaded"):
        find_upscaler(tmp_path, "4x-UltraSharp")
    with pytest.raises(RequestError, match="use one of Lanczos, Latent, 4x-UltraSharp"):
        find_upscaler(tmp_path, "8x")


def test_tiles_of_a_large_picture_meet(tmp_path):
    """It sees 16 pixels beyond a tile; further off, this one's weights have died away."""
    save(original(weights(), 2), tmp_path / "x.safetensors")
    net = load_part(find_upscaler(tmp_path, "x"), "cpu", "float32")
    noise = np.random.default_rng(5).integers(0, 256, (40, 300, 3), np.uint8)
    whole, _ = tiny.finish(enlarged(Image.fromarray(noise), (1200, 160), net))
    right, _ = tiny.finish(enlarged(Image.fromarray(noise[:, 100:]), (800, 160), net))
    assert abs(np.asarray(whole)[:, 600:].astype(int) - np.asarray(right)[:, 200:]).max() <= 1
