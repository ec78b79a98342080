"""Learned preprocessors, with tiny random networks in the formats that transformers writes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    DPTImageProcessorPil,
    VitPoseBackboneConfig,
    VitPoseConfig,
    VitPoseForPoseEstimation,
    VitPoseImageProcessorPil,
    pipeline,
)

from core import Control, Engine, GenerationRequest, Settings
from core.control.detectors import Detectors
from core.control.learned import skeleton
from core.errors import CheckpointError
from core.memory.cache import ModelCache
from tests import tiny
from tests.edits import finish

STAGES = [f"stage{k}" for k in range(1, 5)]


def depth_anything(folder: Path) -> None:
    torch.manual_seed(0)
    sees = Dinov2Config(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=56,
        out_features=STAGES,
        reshape_hidden_states=False,
    )
    config = DepthAnythingConfig(
        backbone_config=sees,
        reassemble_hidden_size=32,
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=8,
        head_hidden_size=8,
    )
    DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    size = {"height": 56, "width": 56}
    DPTImageProcessorPil(size=size, ensure_multiple_of=14, keep_aspect_ratio=True).save_pretrained(folder)


def vitpose(folder: Path) -> None:
    torch.manual_seed(0)
    sees = VitPoseBackboneConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=[64, 48], out_indices=[2]
    )
    VitPoseForPoseEstimation(VitPoseConfig(backbone_config=sees, num_labels=17)).save_pretrained(folder)
    VitPoseImageProcessorPil(size={"height": 64, "width": 48}).save_pretrained(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "pocket").symlink_to(tiny.POCKET)
    (folder / "controlnet").symlink_to(tiny.POCKET.parents[1] / "controlnet")
    depth_anything(folder / "preprocessors" / "depth")
    vitpose(folder / "preprocessors" / "pose")
    return folder


@pytest.fixture(scope="module")
def detectors(models: Path) -> Detectors:
    return Detectors(models / "preprocessors", ModelCache(2**30), prepare=lambda: None)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """Wide, and not of a size that the networks were made for."""
    colours = np.random.default_rng(1).integers(0, 256, (4, 6, 3), np.uint8)
    return Image.fromarray(colours).resize((150, 100), Image.Resampling.BICUBIC)


def seen(detectors: Detectors, picture: Image.Image, name: str, *thresholds: float) -> np.ndarray:
    fields = dict(zip(("threshold_a", "threshold_b"), thresholds, strict=False))
    made = detectors.control_map(picture, Control(net="any", preprocessor=name, **fields))
    assert (made.mode, made.size) == ("RGB", picture.size)
    return np.asarray(made, int)


def test_depth_is_what_the_pipeline_of_transformers_sees(
    models: Path, detectors: Detectors, picture: Image.Image
) -> None:
    oracle = pipeline("depth-estimation", model=str(models / "preprocessors" / "depth"))(picture)["depth"]
    made = seen(detectors, picture, "depth")
    assert (made.min(), made.max()) == (0, 255)
    assert np.abs(made[..., 0] - np.asarray(oracle, int)).max() <= 1


def test_normals_face_the_eye_where_depth_does_not_change_or_is_far(
    detectors: Detectors, picture: Image.Image
) -> None:
    depths, plain = seen(detectors, picture, "depth")[..., 0], seen(detectors, picture, "normals", 0.0, 1.0)
    _, across = np.gradient(depths.astype(float))
    assert np.corrcoef(across.ravel(), plain[..., 0].ravel())[0, 1] > 0.5  # red where it comes nearer to the right
    lengths = np.linalg.norm(plain / 127.5 - 1, axis=2)
    assert np.abs(lengths - 1).max() < 0.03
    far = seen(detectors, picture, "normals", 0.5, 1.0)
    assert (far[depths < 120] == (127, 127, 255)).all()
    flatter = seen(detectors, picture, "normals", 0.0, 0.1)
    assert np.abs(flatter[..., :2] - 127).mean() < 0.9 * np.abs(plain[..., :2] - 127).mean()


def test_a_pose_shows_the_points_that_are_sure(detectors: Detectors, picture: Image.Image) -> None:
    assert seen(detectors, picture, "pose", 0.0).any()
    assert not seen(detectors, picture, "pose", 1.0).any()


def test_a_skeleton_is_drawn_in_openposes_colours() -> None:
    points, there = np.full((18, 2), 200.0, np.float32), np.zeros(18, bool)
    points[2], points[3], there[2:4] = (20, 30), (100, 30), True  # the right shoulder and elbow
    drawn = np.asarray(skeleton(points, there, (256, 128)))
    assert tuple(drawn[30, 60]) == (153, 102, 0)  # three fifths of (255, 170, 0)
    assert tuple(drawn[30, 20]) == (255, 170, 0) and tuple(drawn[30, 100]) == (255, 255, 0)
    assert not drawn[:20].any() and not drawn[:, 110:].any()


def test_a_picture_follows_a_learned_map_and_its_network_is_counted(models: Path, picture: Image.Image) -> None:
    engine = Engine(Settings(models=models, previews=False))
    fields = {"prompt": "a red circle", "seed": 1, "steps": 2, "width": 64, "height": 64}
    unit = Control(net="pocket-canny", preprocessor="depth", image=picture)
    free, steered = finish(engine, **fields), finish(engine, **fields, controls=[unit])
    assert free.images[0].tobytes() != steered.images[0].tobytes()
    assert "preprocessors/depth" in [part.name for part in engine.loaded()]
    assert finish(engine, **fields).images[0].tobytes() == free.images[0].tobytes()


def absent(folder: Path) -> None:
    shutil.rmtree(folder)


def of_another_class(folder: Path) -> None:
    (folder / "config.json").write_text('{"architectures": ["Swin2SRForImageSuperResolution"]}')


def without_safetensors(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut_short(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (absent, "ControlNet 2: Depth .learned. needs a network that is not here; get it"),
        (of_another_class, "it is no DepthAnythingForDepthEstimation or DPTForDepthEstimation"),
        (without_safetensors, "ControlNet 2: The network of Depth .learned. cannot be used"),
        (cut_short, "ControlNet 2: The network of Depth .learned. cannot be used"),
    ],
)
def test_a_network_that_cannot_be_used_is_told_before_anything_runs(
    models: Path, tmp_path: Path, harm: Callable[[Path], None], words: str
) -> None:
    shutil.copytree(models, tmp_path, symlinks=True, dirs_exist_ok=True)
    harm(tmp_path / "preprocessors" / "depth")
    engine = Engine(Settings(models=tmp_path))
    picture = Image.new("RGB", (64, 64))
    units = [Control(net="pocket-canny", image=picture, preprocessor=name) for name in ("canny", "depth")]
    with pytest.raises(CheckpointError, match=words):
        engine.library.resolve(GenerationRequest(prompt="a fish", controls=units))
    assert engine.library.resolve(GenerationRequest(prompt="a fish", controls=units[:1])).controls
