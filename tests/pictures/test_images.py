"""Every kind of picture people have comes in as they see it; everything else is refused in one sentence."""

from __future__ import annotations

import resource
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from core.errors import DarkroomError, RequestError
from core.pictures.images import extend, fit, read_mask, read_picture
from core.request.generation import GenerationRequest
from core.request.parameters import fingerprint

PIXELS = 10_000
RED, WHITE, HALF = (255, 0, 0), (255, 255, 255), (255, 127, 127)  # HALF: red at alpha 128 on white
CORNERS = Image.fromarray(np.array([[10, 60, 110], [160, 210, 250]], np.uint8))  # 3 × 2, every pixel another


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(header: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of raw chunks, for what Pillow does not write. `header` is IHDR's data."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in ((b"IHDR", header), *chunks, (b"IEND", b""))
    )


def deep_png(values: list[int], colour_type: int, width: int = 1) -> bytes:
    """A PNG of one row with 16 bits a channel."""
    row = b"\0" + struct.pack(f">{len(values)}H", *values)
    return png(struct.pack(">IIBBBBB", width, 1, 16, colour_type, 0, 0, 0), (b"IDAT", zlib.compress(row)))


def palette(*, transparent: int | None = None) -> bytes:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, 0, 0, 255])
    image.putdata([0, 1])
    return encoded(image) if transparent is None else encoded(image, transparency=transparent)


def animation(kind: str) -> bytes:
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, "blue")]
    return encoded(
        frames[0], kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind != "PNG" else {})
    )


GOLDEN: dict[str, tuple[bytes, list[tuple[int, int, int]]]] = {
    "RGB": (encoded(Image.new("RGB", (1, 1), RED)), [RED]),
    "L": (encoded(Image.new("L", (1, 1), 77)), [(77, 77, 77)]),
    "1-bit": (encoded(Image.new("1", (1, 1), 1)), [WHITE]),
    "RGBA half": (encoded(Image.new("RGBA", (1, 1), (*RED, 128))), [HALF]),
    "RGBA clear": (encoded(Image.new("RGBA", (1, 1), (0, 0, 0, 0))), [WHITE]),
    "LA half": (encoded(Image.new("LA", (1, 1), (0, 128))), [(127, 127, 127)]),
    "P": (palette(), [RED, (0, 0, 255)]),
    "P clear": (palette(transparent=1), [RED, WHITE]),
    "RGB with a clear colour": (encoded(Image.new("RGB", (1, 1), RED), transparency=RED), [WHITE]),
    "L with a clear grey": (encoded(Image.new("L", (1, 1), 9), transparency=9), [WHITE]),
    "16-bit grey": (deep_png([0, 128 * 257, 65535], 0, 3), [(0, 0, 0), (128, 128, 128), WHITE]),
    "16-bit RGB": (deep_png([65535, 0, 32896], 2), [(255, 0, 128)]),
    "16-bit LA": (deep_png([0, 32896], 4), [(127, 127, 127)]),
    "16-bit RGBA": (deep_png([65535, 0, 0, 0], 6), [WHITE]),
    "WebP": (encoded(Image.new("RGB", (1, 1), RED), "WEBP", lossless=True), [RED]),
    "WebP half": (encoded(Image.new("RGBA", (1, 1), (*RED, 128)), "WEBP", lossless=True, exact=True), [HALF]),
    "APNG": (animation("PNG"), [RED] * 16),
    "animated WebP": (animation("WEBP"), [RED] * 16),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_every_kind_comes_in_as_people_see_it(name: str) -> None:
    data, expected = GOLDEN[name]
    image = read_picture(data, max_pixels=PIXELS)
    assert image.mode == "RGB" and np.asarray(image).reshape(-1, 3).tolist() == [list(colour) for colour in expected]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpegs_come_in(mode: str) -> None:
    image = Image.new("RGB", (16, 16), (200, 40, 40)).convert(mode)
    read = read_picture(encoded(image, "JPEG", quality=100, subsampling=0), max_pixels=PIXELS)
    assert read.mode == "RGB"
    assert np.abs(np.asarray(read).astype(int) - np.asarray(image.convert("RGB"))).max() <= 3


BACK = {  # how a camera held so that the tag is needed would have stored an upright picture
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("read", [read_picture, read_mask])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_and_masks_stand_upright(read: Callable[..., Image.Image], orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = CORNERS.transpose(BACK[orientation]) if orientation in BACK else CORNERS
    image = read(encoded(stored, exif=exif), max_pixels=PIXELS)
    assert np.asarray(image.convert("L")).tolist() == np.asarray(CORNERS).tolist()


def test_damaged_exif_is_ignored() -> None:
    data = encoded(CORNERS.convert("RGB"), "WEBP", lossless=True, exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert read_picture(data, max_pixels=PIXELS).size == CORNERS.size


def test_nothing_but_pixels_goes_on() -> None:
    exif = Image.Exif()
    exif[0x010E] = "secret " * 1_000
    data = encoded(Image.new("RGB", (2, 2)), "JPEG", exif=exif, icc_profile=b"secret", comment=b"secret", dpi=(9, 9))
    image = read_picture(data, max_pixels=PIXELS)
    assert image.info == {} and len(encoded(image)) < 100


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("L", (1, 1), 70), 70),
        (Image.new("1", (1, 1), 1), 255),
        (Image.new("RGB", (1, 1), "white"), 255),
        (Image.new("RGBA", (1, 1), (255, 255, 255, 255)), 255),
        (Image.new("RGBA", (1, 1), (0, 0, 0, 0)), 0),
        (Image.new("LA", (1, 1), (255, 0)), 255),
    ],
)
def test_masks_without_a_varying_alpha_go_by_brightness(image: Image.Image, expected: int) -> None:
    mask = read_mask(encoded(image), max_pixels=PIXELS)
    assert mask.mode == "L" and mask.getpixel((0, 0)) == expected


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_masks_with_a_varying_alpha_go_by_it(mode: str) -> None:
    painted = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    painted.putpixel((1, 0), (255, 90, 60, 153))
    assert np.asarray(read_mask(encoded(painted.convert(mode)), max_pixels=PIXELS)).tolist() == [[0, 153]]


def test_deep_masks_are_scaled() -> None:
    assert np.asarray(read_mask(deep_png([0, 65535], 0, 2), max_pixels=PIXELS)).tolist() == [[0, 255]]


def test_files_on_disk_are_read_by_path(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"  # the name says nothing
    path.write_bytes(encoded(CORNERS))
    assert read_picture(path, max_pixels=PIXELS).size == (3, 2)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 4096), (100, 100)])
def test_odd_sizes_within_the_limit_come_in(width: int, height: int) -> None:
    assert read_picture(encoded(Image.new("RGB", (width, height))), max_pixels=PIXELS).size == (width, height)


def truncated(kind: str) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    return data[: len(data) // 2]


REFUSED = {
    "nothing": b"",
    "a program": b"MZ\x90\0" + b"\0" * 1_000,
    "text": b"<svg onload=alert(1)>",
    "a GIF": encoded(Image.new("P", (1, 1)), "GIF"),
    "a TIFF": encoded(Image.new("F", (1, 1)), "TIFF"),
    "a BMP": encoded(Image.new("RGB", (1, 1)), "BMP"),
    "only a signature": b"\x89PNG\r\n\x1a\n",
    "half a PNG": truncated("PNG"),
    "half a JPEG": truncated("JPEG"),
    "half a WebP": truncated("WEBP"),
    "an empty PNG": png(struct.pack(">IIBBBBB", 0, 0, 8, 2, 0, 0, 0)),
    "a PNG without pixels": png(struct.pack(">IIBBBBB", 9, 9, 8, 2, 0, 0, 0)),
    "a PNG with a text bomb": png(
        struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0),
        (b"zTXt", b"a\0\0" + zlib.compress(b"x" * 2**26)),
        (b"IDAT", zlib.compress(b"\0\0")),
    ),
    "too wide a PNG": encoded(Image.new("1", (PIXELS + 1, 1))),
    "too large a JPEG": encoded(Image.new("L", (101, 100)), "JPEG"),
    "too large a WebP": encoded(Image.new("L", (101, 100)), "WEBP"),
}


@pytest.mark.parametrize("field", ["image", "mask"])
@pytest.mark.parametrize("name", REFUSED)
def test_everything_else_is_refused_by_the_fields_label(name: str, field: str, tmp_path: Path) -> None:
    path = tmp_path / "private"
    path.write_bytes(REFUSED[name])
    read = read_picture if field == "image" else read_mask
    with pytest.raises(RequestError) as caught:
        read(path, max_pixels=PIXELS)
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{GenerationRequest.model_fields[field].title}: ")
    assert "private" not in str(caught.value)


def test_a_missing_file_is_refused_without_its_path(tmp_path: Path) -> None:
    with pytest.raises(RequestError) as caught:
        read_picture(tmp_path / "private", max_pixels=PIXELS, field="controls[0].image", label="Control picture")
    assert caught.value.field == "controls[0].image" and "private" not in str(caught.value)


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    side = 13_000
    rows = zlib.compressobj()
    pixels = b"".join(rows.compress(bytes(1 + (side + 7) // 8)) for _ in range(side)) + rows.flush()
    bomb = png(struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0), (b"IDAT", pixels))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RequestError, match="13,000 × 13,000"):
        read_picture(bomb, max_pixels=4096 * 4096)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kB; decoded it would be 169,000


def test_a_jpeg_of_endless_passes_is_refused_before_it_is_decoded() -> None:
    jpeg = encoded(Image.new("L", (64, 64)), "JPEG", progressive=True)
    last = jpeg[jpeg.rindex(b"\xff\xda") : -2]  # a scan that changes nothing, so it may stand there again
    assert read_picture(jpeg[:-2] + 20 * last + jpeg[-2:], max_pixels=PIXELS).size == (64, 64)
    with pytest.raises(RequestError, match="too many scans"):
        read_picture(jpeg[:-2] + 100 * last + jpeg[-2:], max_pixels=PIXELS)


@given(st.binary(max_size=200), st.sampled_from(sorted(GOLDEN)), st.integers(0, 200), st.integers(0, 20))
def test_no_damage_brings_anything_but_a_clear_error(noise: bytes, name: str, at: int, cut: int) -> None:
    data = GOLDEN[name][0]
    for read in (read_picture, read_mask):
        with suppress(DarkroomError):
            read(data[:at] + noise + data[at + cut :], max_pixels=PIXELS)


def test_a_fingerprint_is_of_the_pixels() -> None:
    image = Image.new("RGB", (2, 3), RED)
    assert fingerprint(image) == fingerprint(read_picture(encoded(image), max_pixels=PIXELS))
    assert len({fingerprint(other) for other in (image, image.rotate(90, expand=True), image.convert("L"))}) == 3


# Resizing


def quarters(width: int, height: int) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (width, height), "red")
    image.paste("blue", (width // 2, 0, width, height))
    return image


def test_fit_leaves_a_picture_of_that_size_alone():
    image = quarters(80, 40)
    assert all(fit(image, (80, 40), mode) is image for mode in ("stretch", "crop", "pad"))


@pytest.mark.parametrize("mode", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("size", [(64, 64), (160, 40), (24, 96), (2000, 8)])
def test_fit_brings_any_picture_to_a_size(mode, size):
    fitted = fit(quarters(80, 40), size, mode)
    assert fitted.size == size
    assert (fitted.getpixel((0, 0)), fitted.getpixel((size[0] - 1, 0))) == ((255, 0, 0), (0, 0, 255))


def test_pad_shows_the_whole_picture_and_crop_its_middle():
    """A frame of white around: crop to a square cuts it off at the sides, pad goes on with it."""
    framed = Image.new("RGB", (80, 40), "black")
    framed.paste("white", (0, 0, 10, 40))
    assert fit(framed, (40, 40), "crop").getpixel((0, 20)) == (0, 0, 0)
    padded = fit(framed, (80, 80), "pad")
    assert padded.getpixel((0, 0)) == padded.getpixel((0, 79)) == (255, 255, 255)
    assert padded.crop((0, 20, 80, 60)).tobytes() == framed.tobytes()


def test_extend_repeats_the_edges_of_pictures_and_masks():
    picture = extend(quarters(8, 8), (3, 0, 2, 1))
    assert picture.size == (13, 9)
    assert (picture.getpixel((0, 8)), picture.getpixel((12, 0))) == ((255, 0, 0), (0, 0, 255))
    assert np.asarray(extend(Image.new("L", (4, 4), 9), (0, 4, 0, 0))).tolist() == [[9] * 4] * 8
