"""A model's hash is computed once, outlives the process, and is another when the file is."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from core.library.checkpoints import Checkpoint
from core.library.hashes import FILE, Hashes
from core.library.parts import Part


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    """A single file whose three parts share it."""
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    parts = tuple(Part(name, file / name, "X", file) for name in ("unet", "vae", "text_encoder"))
    return Checkpoint("model", "Model", parts=parts)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


SHORT = hashlib.sha256(b"weights").hexdigest()[:10]


def test_it_is_a1111s_short_hash_and_known_from_then_on(checkpoint: Checkpoint, data: Path) -> None:
    hashes = Hashes(data)
    assert hashes.known(checkpoint.files) is None
    assert hashes.of(checkpoint.files).result() == SHORT == hashes.known(checkpoint.files)
    assert Hashes(data).known(checkpoint.files) == SHORT


def test_another_process_does_not_read_the_file_again(checkpoint: Checkpoint, data: Path) -> None:
    Hashes(data).of(checkpoint.files).result()
    kept = json.loads((data / FILE).read_text())
    (data / FILE).write_text(json.dumps({key: [mark, "f" * 10] for key, (mark, _) in kept.items()}))
    assert Hashes(data).of(checkpoint.files).result() == "f" * 10


def test_a_replaced_file_has_another_hash(checkpoint: Checkpoint, data: Path, tmp_path: Path) -> None:
    hashes = Hashes(data)
    hashes.of(checkpoint.files).result()
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"WEIGHTS")
    os.utime(file, ns=(1, 1))
    assert hashes.known(checkpoint.files) is None
    assert hashes.of(checkpoint.files).result() != SHORT


@pytest.mark.parametrize("content", [b"", b"[]", b'{"a": 1}', b'{"a": [[["x"]], "y"]}', b"\xff"])
def test_what_is_not_ours_is_computed_anew(checkpoint: Checkpoint, data: Path, content: bytes) -> None:
    (data / FILE).write_bytes(content)
    assert Hashes(data).of(checkpoint.files).result() == SHORT


def test_without_a_data_folder_none_is_made(checkpoint: Checkpoint, tmp_path: Path) -> None:
    assert Hashes(tmp_path / "none").of(checkpoint.files).result() == SHORT
    assert not (tmp_path / "none").exists()
