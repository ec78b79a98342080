"""VAEs that take the place of a model's own: folders of diffusers and single files in models/vae."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.checkpoints import Checkpoint, is_wide
from core.errors import CheckpointError
from core.headers import MALFORMED, count_parameters, model_paths, read_json, read_shapes, without_prefix
from core.parts import Part, Source, sole_part
from core.request import reject
from core.shapes import vae_config

PREFIX = "first_stage_model."  # where a VAE's keys are those of a whole checkpoint
FITS_FLOAT16 = ("fp16-fix", "fp16_fix", "fp16fix")  # in the names of XL's VAEs that were made to
USUAL = {"latent_channels": 4, "scaling_factor": 0.18215, "sample_size": 512, "shift_factor": None}
"""What configs leave out."""
Described = tuple[Part, Mapping[str, Any]]


def list_vaes(folder: Path) -> tuple[str, ...]:
    return tuple(path.name for path in model_paths(folder))


def with_vae(checkpoint: Checkpoint, folder: Path, name: str | None) -> Checkpoint:
    """The checkpoint with the VAE `name` of `folder` in the place of its own; None leaves it as it is.

    Raises RequestError if there is none of that name or it is for other latents, CheckpointError if it is damaged.
    """
    if name is None:
        return checkpoint
    path = next((path for path in model_paths(folder) if path.name == name), None)
    if path is None:
        raise reject("vae", name, "one of " + ", ".join(list_vaes(folder) or ["none, as there is none yet"]))
    part, config = _described(path, checkpoint)
    own = checkpoint.vae_config
    if any(_fact(fact, config) != _fact(fact, own) for fact in ("latent_channels", "scaling_factor")):
        raise reject("vae", name, f"a VAE for {checkpoint.title}; this one is for other latents")
    footprint = replace(
        checkpoint.footprint,
        vae=part.parameters,
        vae_width=config["block_out_channels"][0],
        wide_vae=is_wide(checkpoint.family, config) and not any(mark in name.lower() for mark in FITS_FLOAT16),
    )
    parts = tuple(part if each.name == "vae" else each for each in checkpoint.parts)
    return replace(checkpoint, parts=parts, footprint=footprint)


def _fact(name: str, config: Mapping[str, Any]) -> Any:
    return config.get(name, USUAL[name])


def _described(path: Path, checkpoint: Checkpoint) -> Described:
    try:
        return _describe_folder(path) if path.is_dir() else _describe_file(path, checkpoint)
    except CheckpointError as error:
        raise CheckpointError(f"VAE: {path.name} cannot be used: {error}.") from None
    except MALFORMED:
        reason = "it is no VAE of a kind that Darkroom knows"
        raise CheckpointError(f"VAE: {path.name} cannot be used: {reason}.") from None


def _describe_folder(folder: Path) -> Described:
    return sole_part("vae", folder, ("AutoencoderKL",)), read_json(folder / "config.json")


def _describe_file(path: Path, checkpoint: Checkpoint) -> Described:
    """A file does not say how its latents are scaled: they are the checkpoint's."""
    prefix, own = without_prefix(read_shapes(path), PREFIX)
    facts = {name: _fact(name, checkpoint.vae_config) for name in ("sample_size", "scaling_factor", "shift_factor")}
    config = {**vae_config(own), **facts}
    named = path / checkpoint.family  # loaded for one family it is another model than for another
    return Part("vae", named, "AutoencoderKL", path, count_parameters(own), Source(prefix, config)), config
