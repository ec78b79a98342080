"""Previews by tiny decoders. Those by matrices are compared with pictures in test_engine.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny

from core import Engine, GenerationRequest, Settings, Step
from core.diffusion.preview import MOST_SIDE, decoded_preview
from core.errors import CheckpointError
from core.families.table import FAMILIES
from core.library.parts import find_decoder
from tests import tiny


def decoder() -> AutoencoderTiny:
    torch.manual_seed(0)
    widths = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
    return AutoencoderTiny(**widths, num_encoder_blocks=(1,) * 4, num_decoder_blocks=(1,) * 4).eval()


def test_it_shows_what_the_decoder_draws():
    made, latents = decoder(), torch.randn(4, 6, 8)
    with torch.inference_mode():
        theirs = made.decode(latents[None]).sample[0]
    expected = ((theirs + 1) * 127.5).clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    assert np.array_equal(np.asarray(decoded_preview(latents, made)), expected)


def test_large_latents_are_shown_smaller():
    assert decoded_preview(torch.randn(4, 2 * MOST_SIDE, MOST_SIDE), decoder()).size == (256, 512)


def test_a_folder_is_told_and_what_is_none_is_refused(tmp_path):
    assert find_decoder(tmp_path) is None
    decoder().save_pretrained(tmp_path / "taesd")
    part = find_decoder(tmp_path / "taesd")
    assert part and part.parameters == sum(p.numel() for p in decoder().parameters())
    tiny.vae().save_pretrained(tmp_path / "whole")
    with pytest.raises(CheckpointError, match="it is no AutoencoderTiny"):
        find_decoder(tmp_path / "whole")


@pytest.fixture
def models(tmp_path):
    tiny.sd().save_pretrained(tmp_path / "checkpoints" / "small")
    decoder().save_pretrained(tmp_path / "previews" / FAMILIES["sd1"].preview_decoder)
    return tmp_path


def sizes(models, monkeypatch, on_gpu: bool) -> list[tuple[int, int]]:
    """Of the previews of a run, on a machine that says whether it is a GPU, and computes on the CPU all the same."""
    engine = Engine(Settings(models=models, data=models / "data"))
    monkeypatch.setattr(type(engine._machine), "is_gpu", property(lambda machine: on_gpu))
    request = GenerationRequest(prompt="red", steps=2, seed=1, width=64, height=64)
    return [event.preview.size for event in engine.generate(request) if isinstance(event, Step)]


def test_a_gpu_shows_them_by_the_decoder_and_a_cpu_by_the_matrix(models, monkeypatch):
    assert sizes(models, monkeypatch, on_gpu=True) == [(256, 256)] * 2
    assert sizes(models, monkeypatch, on_gpu=False) == [(32, 32)] * 2


def test_a_damaged_decoder_is_logged_and_the_matrix_stands_in(models, monkeypatch, caplog):
    weights = next((models / "previews" / "taesd").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    assert sizes(models, monkeypatch, on_gpu=True) == [(32, 32)] * 2
    assert "Previews go without their decoder" in caplog.text
