"""The second pass through the engine's public door: sizes, steps, masks, batches, and upscalers from disk."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Swin2SRConfig, Swin2SRForImageSuperResolution

from core import Engine, Finished, GenerationRequest, Hires, Loading, Settings, Step
from core.diffusion.enlarging import MARGIN, TILE, enlarged
from core.errors import CheckpointError, RequestError
from core.events import Enlarging
from core.memory.machine import Machine
from core.memory.planning import Footprint, plan
from core.pictures.canvas import Canvas
from core.pictures.images import fit
from tests import tiny

QUICK = {"prompt": "a red circle on a blue background", "seed": 7, "steps": 4, "width": 64, "height": 64}
SMALL = Hires(scale=1.5, strength=0.5)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A tiny model of 64 × 64, and a Swin2SR that doubles."""
    folder = tmp_path_factory.mktemp("models")
    tiny.sd().save_pretrained(folder / "checkpoints" / "tiny")
    swin2sr(folder / "upscalers" / "double")
    return folder


@pytest.fixture(scope="module")
def engine(models):
    return Engine(Settings(models=models, device="cpu"))


def swin2sr(folder) -> None:
    torch.manual_seed(0)
    config = Swin2SRConfig(embed_dim=12, depths=[1], num_heads=[2], image_size=16, window_size=4, upscale=2)
    Swin2SRForImageSuperResolution(config).save_pretrained(folder)


def events(engine, **fields) -> list:
    return list(engine.generate(GenerationRequest(**{**QUICK, **fields})))


def run(engine, **fields) -> Finished:
    return events(engine, **fields)[-1]


def source(width: int = 64, height: int = 64) -> Image.Image:
    colours = np.random.default_rng(2).integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    ("upscaler", "scale", "size"),
    [("Lanczos", 1.25, (80, 80)), ("Latent", 1.3, (80, 80)), ("double", 1.5, (96, 96)), ("double", 2.6, (160, 160))],
)
def test_pictures_grow_by_the_scale_to_a_multiple_of_8(engine, upscaler, scale, size):
    finished = run(engine, hires=Hires(scale=scale, upscaler=upscaler, strength=0.5))
    assert finished.images[0].size == finished.request.result_size == size
    assert (finished.request.width, finished.request.height) == (64, 64)


@pytest.mark.parametrize("sampler", ["Heun", "PLMS"])
def test_steps_count_both_passes(engine, sampler):
    alone = [e for e in events(engine, sampler=sampler) if isinstance(e, Step)]
    steps = [e for e in events(engine, sampler=sampler, batch_size=2, hires=SMALL) if isinstance(e, Step)]
    assert [step.index for step in steps] == list(range(1, len(steps) + 1))
    assert {step.total for step in steps} == {len(steps)}
    assert len(steps) > len(alone)
    assert steps[0].preview.size < steps[-1].preview.size


def test_the_second_pass_has_steps_and_strength_of_its_own(engine):
    steps = [e for e in events(engine, hires=Hires(steps=10, strength=0.3)) if isinstance(e, Step)]
    assert len(steps) == 4 + 3


@pytest.mark.parametrize("upscaler", ["Lanczos", "Latent"])
def test_a_batch_is_its_single_runs(engine, upscaler):
    hires = Hires(scale=1.5, strength=0.5, upscaler=upscaler)
    for k, image in enumerate(run(engine, batch_size=2, hires=hires).images):
        alone = run(engine, seed=7 + k, hires=hires).images[0]
        assert np.abs(np.asarray(image, int) - np.asarray(alone, int)).max() <= 2


@pytest.mark.parametrize("upscaler", ["Lanczos", "Latent", "double"])
def test_a_picture_alone_is_enlarged_without_a_first_pass(engine, upscaler):
    happened = events(engine, image=source(), strength=0.0, hires=Hires(upscaler=upscaler, strength=0.25))
    assert [(e.index, e.total) for e in happened if isinstance(e, Step)] == [(1, 1)]
    assert happened[-1].images[0].size == (128, 128)


def test_the_second_pass_is_image_to_image_of_the_first_result_enlarged(engine):
    first = run(engine).images[0]
    by_hand = run(engine, image=first.resize((96, 96), Image.Resampling.LANCZOS), strength=0.5, width=96, height=96)
    assert run(engine, hires=SMALL).images[0].tobytes() == by_hand.images[0].tobytes()


def test_outside_the_mask_the_result_is_the_first_one_enlarged(engine):
    picture, mask = source(75, 67), Image.new("L", (75, 67))
    mask.paste(255, (16, 16, 48, 48))
    fields = {"image": picture, "mask": mask, "width": None, "height": None}
    first = run(engine, **fields).images[0]
    large = np.asarray(fit(first, (94, 84), "stretch"))
    far = np.ones((84, 94), bool)
    far[20 - 4 : 60 + 4, 20 - 4 : 60 + 4] = False
    for upscaler in ("Lanczos", "Latent"):
        hires = Hires(scale=1.25, strength=0.5, upscaler=upscaler)
        result = np.asarray(run(engine, **fields, hires=hires).images[0])
        assert (result == large)[far].all()
        assert (result != large)[~far].any()


def test_a_cancel_in_the_second_pass_leaves_nothing_behind(engine):
    running = engine.generate(GenerationRequest(**QUICK, hires=SMALL))
    for event in running:
        if isinstance(event, Step) and event.index == 5:
            break
    running.close()
    assert run(engine).images[0].size == (64, 64)


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"hires": Hires(strength=0.1)}, "hires.strength", "Hires: Strength: 0.1 is not allowed; use at least 0.25"),
        ({"hires": Hires(upscaler="ESRGAN")}, "hires.upscaler", "use one of Lanczos, Latent, double"),
        ({"hires": Hires(upscaler="../../etc")}, "hires.upscaler", "use one of Lanczos"),
        ({"hires": {"scale": 5}}, "hires.scale", "Hires: Scale: 5 is not allowed; use a number from 1.25 to 4"),
        ({"hires": {"scale": float("inf")}}, "hires.scale", "use a number from 1.25 to 4"),
        ({"hires": Hires(steps=60), "sampler": "LCM"}, "hires", "Hires: 60 is not allowed; use at most 50 with LCM"),
        ({"hires": Hires(scale=4), "width": 2048}, "hires.scale", "a scale for sides of at most 4096 pixels"),
        ({"image": source(), "strength": 0.0}, "strength", "use at least 0.25, so that one of 4 steps runs"),
        ({"image": source(), "strength": 0.1, "hires": SMALL}, "strength", "or 0 to enlarge alone"),
        (
            {"image": source(), "mask": Image.new("L", (64, 64), 255), "padding_mask_crop": 8, "hires": SMALL},
            "hires",
            "use it without “Only masked”",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_label(engine, fields, field, message):
    with pytest.raises(RequestError, match=message) as caught:
        engine.library.resolve(GenerationRequest(**{**QUICK, **fields}))
    assert caught.value.field == field


def test_the_budget_counts_the_second_pass_of_every_picture(monkeypatch):
    monkeypatch.setenv("SPACE_ID", "someone/darkroom")
    engine = Engine(Settings())
    fields = {"steps": 20, "width": 512, "height": 512, "batch_size": 4}
    assert engine.library.resolve(GenerationRequest(**fields))
    with pytest.raises(RequestError, match=r"20 steps × 512 × 512 × 4 \+ 20 steps × 1024 × 1024 × 1"):
        engine.library.resolve(GenerationRequest(**fields, hires=Hires(strength=1.0)))
    with pytest.raises(RequestError, match="Hires: “1536 × 1536” is not allowed; use at most 1,048,576 pixels here"):
        engine.library.resolve(GenerationRequest(**fields, hires=Hires(scale=3)))


def test_the_memory_plan_counts_the_larger_pass(engine):
    gpu = Machine("cuda:0", "GPU", 4, 12 * 2**30, 12 * 2**30)
    footprint = Footprint((), 10**9, 10**8, 320, 128)
    small = engine.library.resolve(GenerationRequest(**{**QUICK, "width": 512, "height": 512}))
    large = small.replace(hires=Hires(scale=4, strength=0.5))
    assert not plan(gpu, footprint, small).way.tiles
    assert plan(gpu, footprint, large).way.tiles


# Upscalers from disk


def test_an_upscaler_is_loaded_once_and_said(models):
    engine = Engine(Settings(models=models, device="cpu"))
    hires = Hires(upscaler="double", strength=0.5)
    assert Loading("double") in events(engine, hires=hires)
    assert not [event for event in events(engine, hires=hires) if isinstance(event, Loading)]


def test_tiles_leave_no_seams_and_miss_nothing():
    """A network that repeats each pixel must give, whatever the tiles, just that."""

    class Doubling:
        device, dtype = torch.device("cpu"), torch.float32

        class config:  # noqa: N801 - as transformers has it
            upscale = 2

        def __call__(self, pixel_values):
            assert max(pixel_values.shape[2:]) <= TILE + 2 * MARGIN
            large = torch.nn.functional.interpolate(pixel_values, scale_factor=2)
            return type("Output", (), {"reconstruction": large})

    image = source(TILE * 2 + 5, TILE + 1)
    size = (2 * image.width, 2 * image.height)
    large, told = tiny.finish(enlarged(image, size, Doubling()))
    assert large.tobytes() == image.resize(size, Image.Resampling.NEAREST).tobytes()
    assert told == [Enlarging(index, 6) for index in range(1, 7)]  # a run can be stopped at each


def test_the_networks_own_result_is_taken(models):
    net = Swin2SRForImageSuperResolution.from_pretrained(models / "upscalers" / "double").eval()
    image = source(40, 24)
    pixels = torch.from_numpy(np.asarray(image, np.float32).transpose(2, 0, 1)[None] / 255)
    with torch.inference_mode():
        theirs = net(pixel_values=pixels).reconstruction[0].clamp(0, 1).mul(255).round().byte().permute(1, 2, 0)
    large, _ = tiny.finish(enlarged(image, (80, 48), net))
    assert np.array_equal(np.asarray(large), theirs.numpy())


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        ("architecture", "Upscaler: broken cannot be used: it is no Swin2SR"),
        ("truncated", "damaged or not fully copied"),
        ("pickle", "a pickle"),
        ("config", "config.json is not JSON"),
        ("weights", "damaged or does not fit its config"),
    ],
)
def test_a_broken_upscaler_says_what_is_wrong(models, tmp_path, harm, problem):
    (tmp_path / "checkpoints").symlink_to(models / "checkpoints")
    folder = tmp_path / "upscalers" / "broken"
    swin2sr(folder)
    config, weights = folder / "config.json", folder / "model.safetensors"
    match harm:
        case "architecture":
            config.write_text(json.dumps({"architectures": ["os.system"]}))
        case "truncated":
            weights.write_bytes(weights.read_bytes()[:-10])
        case "pickle":
            weights.rename(folder / "pytorch_model.bin")
        case "config":
            config.write_text("[" * 10)
        case "weights":
            config.write_text(config.read_text().replace('"embed_dim": 12', '"embed_dim": 24'))
    with pytest.raises(CheckpointError, match=problem):
        run(Engine(Settings(models=tmp_path, device="cpu")), hires=Hires(upscaler="broken", strength=0.5))


def test_a_thin_mask_still_paints(engine):
    """The nearest pixel of each latent would miss it."""
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 33, 64, 34))
    request = engine.library.resolve(
        GenerationRequest(**{**QUICK, "image": source(), "mask": mask, "mask_feather": 0})
    )
    result = run(engine, image=source(), mask=mask, mask_feather=0).images[0]
    inside = np.asarray(Canvas(request).alpha) > 0
    difference = np.abs(np.asarray(result, int) - np.asarray(source(), int)).max(axis=2)
    assert difference[inside].mean() > 2
    assert not difference[~inside].any()


def test_an_inpainting_model_of_9_channels_takes_grey_masks(tmp_path):
    tiny.sd(in_channels=9).save_pretrained(tmp_path / "checkpoints" / "nine")
    engine, distances = Engine(Settings(models=tmp_path, device="cpu")), []
    for grey in (128, 255):
        mask = Image.new("L", (64, 64))
        mask.paste(grey, (0, 0, 64, 32))
        result = np.asarray(run(engine, image=source(), mask=mask, strength=1.0).images[0], int)
        difference = np.abs(result - np.asarray(source(), int))
        assert not difference[32 + 4 :].any()
        distances.append(difference[:32].mean())
    assert distances[0] > 0 and distances[0] != distances[1]
    with pytest.raises(RequestError, match="inpainting only"):
        run(engine)
