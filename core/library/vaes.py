"""VAEs that take the place of a model's own: folders of diffusers and single files in models/vae."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.errors import CheckpointError
from core.library.checkpoints import Checkpoint, is_wide
from core.library.folders import Folders, models_in
from core.library.headers import MALFORMED, count_parameters, read_json, read_shapes, without_prefix
from core.library.parts import Part, Source, sole_part
from core.library.shapes import vae_config
from core.request import reject

PREFIX = "first_stage_model."  # where a VAE's keys are those of a whole checkpoint
FITS_FLOAT16 = ("fp16-fix", "fp16_fix", "fp16fix")  # in the names of XL's VAEs that were made to
UNTOLD = {
    "sample_size": 512,
    "scaling_factor": 0.18215,
    "shift_factor": None,
    "norm_num_groups": 32,
    "mid_block_add_attention": True,
}
"""What tensors do not tell, and what it is usually."""
USUAL = {"latent_channels": 4, **UNTOLD}
"""What configs leave out."""
Described = tuple[Part, Mapping[str, Any]]


def list_vaes(where: Folders) -> tuple[str, ...]:
    return tuple(models_in(where))


def with_vae(checkpoint: Checkpoint, where: Folders, name: str | None) -> Checkpoint:
    """The checkpoint with the VAE `name` of `where` in the place of its own; None leaves it as it is.

    Raises RequestError if there is none of that name, it is for other latents, or none is named and the checkpoint
    has none, CheckpointError if it is damaged.
    """
    has_own = any(part.name == "vae" for part in checkpoint.parts)
    if name is None and has_own:
        return checkpoint
    known = models_in(where)
    if name not in known:
        why = "" if has_own else f", as {checkpoint.title} has none of its own"
        raise reject(
            "vae", name, f"one of {', '.join(known)}{why}" if known else f"one in models/vae{why}; there is none yet"
        )
    part, config = _described(known[name], checkpoint)
    own = checkpoint.vae_config
    if any(_fact(fact, config) != _fact(fact, own) for fact in ("latent_channels", "scaling_factor")):
        raise reject("vae", name, f"a VAE for {checkpoint.title}; this one is for other latents")
    footprint = replace(
        checkpoint.footprint,
        vae=part.parameters,
        vae_width=config["block_out_channels"][0],
        wide_vae=is_wide(checkpoint.family, config) and not any(mark in name.lower() for mark in FITS_FLOAT16),
    )
    parts = (*(each for each in checkpoint.parts if each.name != "vae"), part)
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
    """A file does not say how its latents are scaled, or its layers grouped: as the checkpoint's."""
    prefix, own = without_prefix(read_shapes(path), PREFIX)
    facts = {name: _fact(name, checkpoint.vae_config) for name in UNTOLD}
    config = {**vae_config(own), **facts}
    named = path / checkpoint.family  # loaded for one family it is another model than for another
    return Part("vae", named, "AutoencoderKL", path, count_parameters(own), Source(prefix, config)), config
