"""Comparing a picture with the one made again."""

from __future__ import annotations

from PIL import Image

from core.pictures.replay import compare

HERE = {"model_hash": "abc", "torch": "2.13", "device": "CPU", "threads": "2"}


def grey(size: tuple[int, int] = (10, 10), spot: int = 100) -> Image.Image:
    image = Image.new("RGB", size, (100, 100, 100))
    image.putpixel((3, 4), (100, spot, 100))
    return image


def test_the_same_pixels_are_identical_whatever_made_them() -> None:
    result = compare((grey(), grey()), (HERE, HERE | {"torch": "2.14"}))
    assert result.identical
    assert str(result) == "Identical: every pixel is the same."


def test_one_pixel_off_by_one_is_seen() -> None:
    result = compare((grey(), grey(spot=101)), (HERE, HERE))
    assert not result.identical
    assert (result.differing, result.most) == (0.01, 1)
    assert "model, versions and machine are the same" in str(result).lower()


def test_what_differed_in_the_making_is_named() -> None:
    before = HERE | {"threads": "8", "lora_hash:ink": "1"}
    result = compare((grey(), grey(spot=0)), (before, HERE))
    assert result.causes == ("threads: 8 then, 2 now", "LoRA ink: 1 then, none now")
    assert "Threads: 8 then, 2 now; LoRA ink" in str(result)
    files = {"vae_hash": "1", "controlnet_hash:pocket-canny": "2", "embedding_hash:ink": "3"}
    told = compare((grey(), grey(spot=0)), (HERE | files, HERE)).causes
    assert [cause.partition(":")[0] for cause in told] == ["VAE file", "ControlNet pocket-canny", "embedding ink"]


def test_differences_below_a_hundredth_are_not_called_none() -> None:
    result = compare((grey((100, 100)), grey((100, 100), spot=0)), (HERE, HERE))
    assert "less than 1% of the pixels differ, by at most 100 of 255" in str(result)


def test_other_sizes_are_not_identical() -> None:
    result = compare((grey(), grey((10, 11))), (HERE, HERE))
    assert not result.identical
    assert "sizes differ" in str(result)
