"""Masks, frames and regions, without a model: what a run will work on, and that nothing else of a picture changes."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from core import Engine, GenerationRequest, Hires, Outpaint, Settings
from core.errors import RequestError
from core.jobs.records import Encoded
from core.pictures.canvas import Canvas, extend_to
from core.pictures.metadata import read_text
from core.request.parameters import allowed


@pytest.fixture(scope="module")
def engine():
    return Engine(Settings())


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8))


def box_mask(width: int, height: int, box: tuple[int, int, int, int], value: int = 255) -> Image.Image:
    mask = Image.new("L", (width, height))
    mask.paste(value, box)
    return mask


SOURCE = noise(120, 100)
MASK = box_mask(120, 100, (40, 30, 80, 70))


def canvas(engine, **fields) -> Canvas:
    return Canvas(engine.library.resolve(GenerationRequest(**{"image": SOURCE, "mask": MASK, "seed": 1, **fields})))


def painted(image: Image.Image) -> np.ndarray:
    return np.asarray(image) > 0


def distance_outside(box: tuple[int, int, int, int], shape: tuple[int, int]) -> np.ndarray:
    """How far each pixel lies outside of `box`, by hand."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    left, upper, right, lower = box
    across, along = (
        np.maximum(np.maximum(left - x, x - right + 1), 0),
        np.maximum(np.maximum(upper - y, y - lower + 1), 0),
    )
    return np.hypot(across, along)


@pytest.mark.parametrize("feather", [0, 1, 4, 17])
def test_the_feather_never_reaches_further_than_its_width(engine, feather):
    alpha = np.asarray(canvas(engine, mask_feather=feather).alpha)
    distance = distance_outside((40, 30, 80, 70), alpha.shape)
    assert ((alpha > 0) == (distance <= feather)).all()
    assert (alpha[distance == 0] == 255).all()


def test_the_result_is_pasted_back_where_the_mask_lets_it(engine):
    on = canvas(engine)
    green = Image.new("RGB", on.request.work_size, "lime")
    result, source, alpha = np.asarray(on.paste(green)), np.asarray(SOURCE), np.asarray(on.alpha)
    assert (result[alpha == 0] == source[alpha == 0]).all()
    assert (result[alpha == 255] == (0, 255, 0)).all()


@pytest.mark.parametrize("size", [(120, 100), (64, 64), (121, 99), (65, 203), (9, 8)])
def test_a_picture_keeps_its_size_and_is_worked_on_at_multiples_of_8(engine, size):
    on = canvas(engine, image=noise(*size), mask=Image.new("L", size, 255))
    assert on.request.frame_size == on.source.size == on.mask.size == on.alpha.size == size
    width, height = on.request.work_size
    assert width % 8 == height % 8 == 0 and width >= 64 and height >= 64
    assert on.picture.size == on.work_mask.size == (width, height)
    assert on.paste(on.picture).tobytes() == on.source.tobytes()
    assert (np.asarray(on.picture)[:, -1] == np.asarray(on.picture)[:, size[0] - 1]).all()  # its edge, repeated


def test_a_size_that_a_model_works_at_is_filled_in_and_an_odd_one_is_not(engine):
    assert (canvas(engine).request.width, canvas(engine).request.height) == (None, None)
    even = canvas(engine, image=noise(128, 96), mask=Image.new("L", (128, 96), 255)).request
    assert (even.width, even.height) == (128, 96)
    assert engine.library.resolve(even) == even


@pytest.mark.parametrize("mode", ["stretch", "crop", "pad"])
def test_with_width_and_height_the_source_is_the_resized_picture(engine, mode):
    on = canvas(engine, width=64, height=128, resize_mode=mode)
    assert on.source.size == on.mask.size == on.request.work_size == (64, 128)
    assert set(np.unique(on.mask)) == {0, 255}  # black and white stay so


def test_invert(engine):
    assert (painted(canvas(engine, mask_invert=True).mask) == ~painted(canvas(engine).mask)).all()


@pytest.mark.parametrize(("grow", "box"), [(5, (35, 25, 85, 75)), (-5, (45, 35, 75, 65))])
def test_grow_and_shrink_by_pixels(engine, grow, box):
    assert canvas(engine, mask_grow=grow).mask.getbbox() == box


@pytest.mark.parametrize("by", [9, 40])
def test_a_mask_grows_in_all_directions_alike(by):
    point = np.zeros((121, 121), np.uint8)
    point[60, 60] = 200
    request = GenerationRequest(image=noise(121, 121), mask=Image.fromarray(point), mask_grow=by)
    grown = np.asarray(Canvas(request.replace(steps=20)).mask)
    far = np.hypot(*(np.indices(grown.shape) - 60))
    assert (grown[far <= by - 2] == 200).all() and not grown[far > by + 2].any()


def test_what_is_too_dark_for_one_step_is_black(engine):
    faint = box_mask(120, 100, (40, 30, 80, 70), 25)  # a tenth of what may change
    assert painted(canvas(engine, mask=faint, steps=20, strength=1.0).mask).any()
    with pytest.raises(RequestError, match="nothing would change"):
        canvas(engine, mask=faint, steps=8)


def test_masks_of_other_modes(engine):
    rgba = Image.new("RGBA", SOURCE.size, (255, 255, 255, 0))
    rgba.paste((0, 0, 0, 255), (40, 30, 80, 70))
    for mask in (MASK.convert("1"), MASK.convert("RGB"), rgba):
        assert canvas(engine, mask=mask).mask.tobytes() == MASK.tobytes()


def test_mask_content(engine):
    inside = (slice(30, 70), slice(40, 80))

    def begun(content: str, source: Image.Image = SOURCE) -> np.ndarray:
        on = canvas(engine, image=source, mask_content=content, mask_colour="#102030")
        assert (np.asarray(on.picture)[:30, :120] == np.asarray(source)[:30]).all()
        return np.asarray(on.picture)[inside]

    assert (begun("original") == np.asarray(SOURCE)[inside]).all()
    assert (begun("colour") == (0x10, 0x20, 0x30)).all()
    assert begun("noise").std() > 60
    teal_around = Image.new("RGB", SOURCE.size, "teal")
    teal_around.paste("red", (40, 30, 80, 70))
    assert np.abs(begun("fill", teal_around).astype(int) - (0, 128, 128)).max() <= 1


@pytest.mark.parametrize("content", ["noise", "fill", "colour"])
def test_content_under_a_mask_that_is_all_white(engine, content):
    on = canvas(engine, mask=Image.new("L", SOURCE.size, 255), mask_content=content)
    assert on.picture.size == on.request.work_size


def test_only_masked_works_on_the_region_at_full_resolution(engine):
    on = canvas(engine, padding_mask_crop=10, mask_feather=4)
    assert on.request.work_size == (256, 256)  # the model's own
    left, upper, right, lower = on.region
    assert left <= 26 and upper <= 16 and right >= 94 and lower >= 84
    assert right - left == lower - upper
    assert on.request.frame_size == SOURCE.size
    result = on.paste(Image.new("RGB", (256, 256), "lime"))
    outside = np.asarray(on.alpha) == 0
    assert (np.asarray(result)[outside] == np.asarray(SOURCE)[outside]).all()
    assert result.getpixel((60, 50)) == (0, 255, 0)


@pytest.mark.parametrize("box", [(0, 0, 8, 8), (112, 92, 120, 100), (0, 0, 120, 4), (0, 0, 120, 100)])
def test_the_region_stays_within_the_picture_and_has_the_shape_of_width_and_height(engine, box):
    on = canvas(engine, mask=box_mask(120, 100, box), padding_mask_crop=8, width=256, height=128, mask_feather=0)
    left, upper, right, lower = on.region
    assert 0 <= left <= box[0] and 0 <= upper <= box[1] and 120 >= right >= box[2] and 100 >= lower >= box[3]
    if right - left < 120:
        assert (right - left) == pytest.approx(2 * (lower - upper), abs=1)


def test_outpaint_extends_the_frame_and_keeps_the_original_beyond_the_seam(engine):
    on = canvas(engine, mask=None, outpaint=Outpaint(left=13, up=7, right=20), mask_feather=6)
    assert on.request.task == "inpaint"
    assert on.request.frame_size == (153, 107)
    assert on.source.crop((13, 7, 133, 107)).tobytes() == SOURCE.tobytes()
    assert painted(on.mask).sum() == 153 * 107 - 120 * 100
    result = on.paste(Image.new("RGB", on.request.work_size, "lime")).crop((13, 7, 133, 107))
    changed = (np.asarray(result) != np.asarray(SOURCE)).any(axis=2)
    assert changed[:, 0].all() and changed[0].all() and changed[:, -1].all()
    assert not changed[6:, 6:-6].any()
    assert changed[8:, 0:6].mean() > 0.9  # the seam is feathered


def test_the_new_area_goes_on_with_the_edges_and_some_noise(engine):
    source = Image.new("RGB", (80, 80), "navy")
    new = np.asarray(canvas(engine, image=source, mask=None, outpaint=Outpaint(right=48)).source, float)[:, 80:]
    assert np.abs(new.mean(axis=(0, 1)) - (0, 0, 128)).max() < 15
    assert new[..., 2].std() > 10


def test_outpaint_with_a_mask_paints_both(engine):
    on = canvas(engine, outpaint=Outpaint(down=32))
    assert painted(on.mask)[100:].all()
    assert painted(on.mask)[:100].sum() == 40 * 40


@pytest.mark.parametrize(
    ("size", "ratio", "sides"),
    [
        ((512, 512), (16, 9), (199, 0, 199, 0)),
        ((512, 512), (3, 4), (0, 85, 0, 86)),
        ((100, 101), (1, 1), (0, 0, 1, 0)),
    ],
)
def test_extend_to_a_ratio(size, ratio, sides):
    assert extend_to(size, ratio).sides == sides


def test_extend_to_the_ratio_that_is_there_already():
    with pytest.raises(
        RequestError, match="Outpaint: “4:3” is not allowed; use another ratio than the picture's own"
    ):
        extend_to((640, 480), (4, 3))


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"image": None}, "mask", "Mask: a picture of 120 × 100 is not allowed; use a source picture with it"),
        (
            {"image": None, "mask": None, "outpaint": Outpaint(up=8)},
            "outpaint",
            "Outpaint: .* a source picture with it",
        ),
        ({"mask": Image.new("L", (9, 9), 255)}, "mask", "a mask of the source picture's size, 120 × 100"),
        ({"mask": Image.new("L", (120, 100))}, "mask", "Mask: “an all-black mask” is not allowed"),
        ({"mask": Image.new("L", (120, 100), 255), "mask_invert": True}, "mask", "nothing would change"),
        ({"mask_grow": -100}, "mask", "nothing would change"),
        ({"image": noise(1, 1), "mask": None}, "image", "Source picture: a picture of 1 × 1 .* at least 8 × 8"),
        ({"image": noise(1, 1), "mask": Image.new("L", (1, 1), 255)}, "image", "at least 8 × 8"),
        ({"image": noise(5000, 16), "mask": None}, "image", "sides of at most 4096 pixels, or give width and height"),
        ({"strength": float("nan")}, "strength", "Strength: nan is not allowed; use a number from 0 to 1"),
        ({"strength": 0.01}, "strength", "at least 0.05, so that one of 20 steps runs"),
        ({"resize_mode": "tile"}, "resize_mode", "Resize: “tile” is not allowed; use one of stretch, crop, pad"),
        ({"mask_colour": "red"}, "mask_colour", "Mask colour: “red” is not allowed; use a colour such as #808080"),
        ({"mask_feather": 65}, "mask_feather", "Feather: 65 is not allowed; use a whole number from 0 to 64"),
        ({"mask_invert": 1}, "mask_invert", "Invert mask: 1 is not allowed; use true or false"),
        ({"outpaint": {"left": -1}}, "outpaint.left", "Outpaint: Left: -1 is not allowed; use a whole number"),
        ({"outpaint": {}}, "outpaint.left", "use at least one side above 0"),
        ({"outpaint": 3}, "outpaint", "Outpaint: 3 is not allowed; use an object of left, right, up, down"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_label(engine, fields, field, message):
    with pytest.raises(RequestError, match=message) as caught:
        canvas(engine, **fields)
    assert caught.value.field == field


def test_outpaint_beyond_what_the_host_allows(monkeypatch):
    monkeypatch.setenv("SPACE_ID", "someone/darkroom")
    with pytest.raises(
        RequestError, match="Outpaint: “2168 × 1000” is not allowed; use at most 1,048,576 pixels here"
    ):
        canvas(Engine(Settings()), image=noise(120, 1000), mask=None, outpaint=Outpaint(right=2048))
    with pytest.raises(RequestError, match=r"Steps: .* a product of at most 100 million on this server"):
        canvas(Engine(Settings()), image=noise(120, 512), mask=None, outpaint=Outpaint(right=1500), batch_size=16)


def test_a_picture_replays_from_its_own_png(engine):
    """Nested fields too, through the metadata and back."""
    from core import Finished

    request = engine.library.resolve(
        GenerationRequest(image=SOURCE, seed=1, outpaint=Outpaint(left=8), hires=Hires(scale=1.5), mask_grow=3)
    )
    png = Encoded.of(Finished([SOURCE], request), 0).png
    assert read_text(png, lambda _: SOURCE).request == request


def test_every_field_says_what_it_takes():
    for field in GenerationRequest.model_fields.values():
        assert allowed(field)
