"""Latents to pictures, one at a time. What fails is done again in another way, and no step is run twice for it."""

from __future__ import annotations

import gc
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from core.errors import DarkroomError
from core.events import Notice
from core.families import pixels_a_latent, shift_of
from core.families.work import Model
from core.memory import TILE, is_out_of_memory
from core.memory.work import empty_caches

IN_TILES = "Memory ran out while decoding; the picture was decoded again in tiles"
IN_FLOAT32 = "The VAE gave no picture in {}; it was decoded again in float32"
NO_NUMBERS = "The model computed no picture, only NaN. Another sampler, less guidance or another VAE may help."


def picture(model: Model, latents: Tensor) -> Generator[Notice, None, Image.Image]:
    """The picture of latents (1, c, h, w): RGB, 8 bits. What a second attempt changes stays so for the run.

    Raises DarkroomError if the model computed no numbers.
    """
    vae = model.parts.vae
    pixels = _decode_if_it_fits(model, latents)
    if pixels is None:
        gc.collect()
        empty_caches()
        _tile(vae)
        pixels = decode(model, latents)
        yield Notice(IN_TILES)
    if vae.dtype != torch.float32 and _is_no_picture(pixels):
        yield Notice(IN_FLOAT32.format(str(vae.dtype).removeprefix("torch.")))
        vae.to(torch.float32)
        pixels = decode(model, latents)
    if not pixels.isfinite().all():
        raise DarkroomError(NO_NUMBERS)
    array = (pixels * 0.5 + 0.5).clamp(0, 1)[0].permute(1, 2, 0).float().cpu().numpy()
    return Image.fromarray((array * 255).round().astype("uint8"), "RGB")


@torch.inference_mode()
def decode(model: Model, latents: Tensor) -> Tensor:
    """Latents (1, c, h, w) to pixels (1, 3, 8h, 8w) in −1 … 1."""
    vae = model.parts.vae
    centred = latents / vae.config.scaling_factor + shift_of(vae)
    pixels: Tensor = vae.decode(centred.to(vae.dtype), return_dict=False)[0]
    return pixels


def _decode_if_it_fits(model: Model, latents: Tensor) -> Tensor | None:
    """None if memory ran out where tiles may help; the error, and the tensors that it holds, are gone by then."""
    try:
        return decode(model, latents)
    except Exception as error:
        if not is_out_of_memory(error) or model.parts.vae.use_tiling:
            raise
        return None


def _is_no_picture(pixels: Tensor) -> bool:
    """Whether there are values that are no numbers, or nothing but black."""
    return not bool(pixels.isfinite().all()) or bool((pixels <= -1).all())


@contextmanager
def vae_as(vae: Any, tiles: bool) -> Iterator[None]:
    """For one run: the VAE works in tiles if that is asked, and is afterwards as it was."""
    dtype = vae.dtype
    if tiles:
        _tile(vae)
    try:
        yield
    finally:
        vae.disable_tiling()
        if vae.dtype != dtype:
            vae.to(dtype)


def _tile(vae: Any) -> None:
    """Of TILE pixels: diffusers' own are as large as what the VAE was trained with, which is no less for XL."""
    vae.enable_tiling()
    vae.tile_sample_min_size = TILE
    vae.tile_latent_min_size = TILE // pixels_a_latent(vae.config)
