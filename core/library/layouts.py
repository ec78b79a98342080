"""Single-file checkpoints: what a header's key names say. A family more is a row in LAYOUTS.

Nothing is guessed: a file that fits no row, or does not say what it predicts, is refused with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from core.errors import CheckpointError
from core.library.headers import refuse
from core.library.parts import T5
from core.library.shapes import (
    Config,
    Shapes,
    clip_config,
    flux_config,
    open_clip_config,
    sd2_text_config,
    t5_config,
    transformer_config,
    unet_config,
    vae_config,
)

PUBLISHED_VAE: Config = {"latent_channels": 4, "block_out_channels": [128, 256, 512, 512]}  # where a file has none
DENOISER = "model.diffusion_model."
BARE = (DENOISER, "")  # some files are a denoiser alone
PROJECTING = "CLIPTextModelWithProjection"
END, ZERO, T5_PAD = "<|endoftext|>", "!", "<pad>"  # what fills up a short prompt: OpenAI's way, OpenCLIP's, T5's


@dataclass(frozen=True)
class Piece:
    """A component inside a file: keys with one of the prefixes, a config made from their shapes, and what shapes do
    not tell. A text encoder has a tokenizer, which fills up with `pad_token`.
    """

    name: str
    class_name: str
    prefixes: tuple[str, ...]
    config: Callable[[Shapes], Config]
    facts: Mapping[str, Any] = field(default_factory=dict)
    pad_token: str = ""
    optional: bool = False

    @property
    def published_as(self) -> str:
        """What a text encoder's own file is called: clip_l, clip_g or t5xxl."""
        return self.prefixes[0].split(".")[1]


class Found(NamedTuple):
    """A piece in a file: its config, and its tensors, whose keys begin with `prefix` there."""

    config: Config
    shapes: Shapes
    prefix: str


@dataclass(frozen=True)
class Layout:
    """How the files of a family look: only they have keys that begin with one of the markers."""

    family: str
    markers: tuple[str, ...]
    pieces: tuple[Piece, ...]
    channels: tuple[int, ...] = (4, 9)  # that the model takes: latents alone, or with mask and masked picture
    shift: float | None = None  # of the noise levels of flow matching

    @property
    def denoiser(self) -> str:
        """The piece that predicts."""
        return next(piece.name for piece in self.pieces if piece.name in ("unet", "transformer"))

    @property
    def text_encoders(self) -> tuple[Piece, ...]:
        return tuple(piece for piece in self.pieces if piece.pad_token)


def _text_encoder(name: str, prefix: str, config: Callable[[Shapes], Config], pad_token: str) -> Piece:
    return Piece(name, "CLIPTextModel", (prefix,), config, pad_token=pad_token)


def _projecting(name: str, prefix: str, config: Callable[[Shapes], Config], pad_token: str) -> Piece:
    return replace(_text_encoder(name, prefix, config, pad_token), class_name=PROJECTING)


def _t5(name: str) -> Piece:
    prefix = "text_encoders.t5xxl.transformer."
    return Piece(name, T5, (prefix,), t5_config, pad_token=T5_PAD, optional=True)


def _unet(sample_size: int) -> Piece:
    return Piece("unet", "UNet2DConditionModel", (DENOISER,), unet_config, {"sample_size": sample_size})


def _vae(sample_size: int, scaling_factor: float, **more: float) -> Piece:
    facts = {"sample_size": sample_size, "scaling_factor": scaling_factor, **more}
    return Piece("vae", "AutoencoderKL", ("first_stage_model.", "vae."), vae_config, facts, optional=True)


CLIP_L = replace(_text_encoder("text_encoder", "text_encoders.clip_l.transformer.", clip_config, END), optional=True)
CLIP_G = replace(
    _projecting("text_encoder_2", "text_encoders.clip_g.transformer.", clip_config, ZERO),
    facts={"hidden_act": "gelu"},
    optional=True,
)
LAYOUTS = (
    Layout(
        "sd1",
        ("cond_stage_model.transformer.",),
        (
            _text_encoder("text_encoder", "cond_stage_model.transformer.", clip_config, END),
            _unet(64),
            _vae(512, 0.18215),
        ),
    ),
    Layout(
        "sd2",
        ("cond_stage_model.model.",),
        (
            _text_encoder("text_encoder", "cond_stage_model.model.", sd2_text_config, ZERO),
            _unet(96),
            _vae(768, 0.18215),
        ),
    ),
    Layout(
        "sdxl",
        ("conditioner.embedders.1.model.",),
        (
            _text_encoder("text_encoder", "conditioner.embedders.0.transformer.", clip_config, END),
            _projecting("text_encoder_2", "conditioner.embedders.1.model.", open_clip_config, ZERO),
            _unet(128),
            _vae(1024, 0.13025),
        ),
    ),
    Layout(
        "refiner",
        ("conditioner.embedders.0.model.",),
        (
            _projecting("text_encoder_2", "conditioner.embedders.0.model.", open_clip_config, ZERO),
            _unet(128),
            _vae(1024, 0.13025),
        ),
        channels=(4,),
    ),
    Layout(
        "sd3",
        tuple(f"{prefix}joint_blocks." for prefix in BARE),
        (
            replace(CLIP_L, class_name=PROJECTING),
            CLIP_G,
            _t5("text_encoder_3"),
            Piece("transformer", "SD3Transformer2DModel", BARE, transformer_config, {"sample_size": 128}),
            _vae(1024, 1.5305, latent_channels=16, shift_factor=0.0609),
        ),
        channels=(16,),
        shift=3.0,
    ),
    Layout(
        "flux",
        tuple(f"{prefix}double_blocks." for prefix in BARE),
        (
            CLIP_L,
            _t5("text_encoder_2"),
            Piece("transformer", "FluxTransformer2DModel", BARE, flux_config),
            _vae(1024, 0.3611, latent_channels=16, shift_factor=0.1159),
        ),
        channels=(64,),
        shift=1.0,
    ),
)
"""In the order of asking. What is optional may come from elsewhere: see `_completed` in checkpoints.py."""

REFUSED = (
    (r"^lora_|\.lora_(A|B|up|down|linear)", "it is a LoRA, which belongs into models/loras"),
    (r"^control_model\.|^controlnet_cond_embedding\.", "it is a ControlNet, which belongs into models/controlnet"),
    (r"^edm_", "it was trained with EDM noise levels, which Darkroom does not know"),
)
"""What is often put into the folder and is no checkpoint: a pattern of its keys, and what to say."""
INCOMPLETE = (
    (r"^(encoder|decoder)\.conv_in\.", "it is a VAE alone, not a whole model"),
    (r"^down_blocks\.", "it is the U-Net of a diffusers folder; put the whole folder here"),
    (r"^model\.diffusion_model\.", "it has no text encoder that Darkroom knows"),
)
"""The same for files that fit no layout."""


def identify(shapes: Shapes) -> Layout:
    """Raises CheckpointError, with the reason, for a file that is no checkpoint of a family we know."""
    refuse(REFUSED, shapes)
    for layout in LAYOUTS:
        if any(key.startswith(layout.markers) for key in shapes):
            return layout
    refuse(INCOMPLETE, shapes)
    raise CheckpointError("its tensors are of no kind of model that Darkroom knows")


def layout_of(family: str) -> Layout:
    return next(layout for layout in LAYOUTS if layout.family == family)


def pieces(layout: Layout, shapes: Shapes) -> dict[str, Found]:
    """What of the layout is in the file, by name. Raises CheckpointError for a piece that does not fit.

    The VAE is always there: with the family's config and no tensors where the file has none.
    """
    found: dict[str, Found] = {}
    for piece in layout.pieces:
        prefix = next((each for each in piece.prefixes if any(key.startswith(each) for key in shapes)), "")
        own = {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}
        if piece.optional and not prefix:
            if piece.name == "vae":
                found["vae"] = Found({**PUBLISHED_VAE, **piece.facts}, {}, "")
            continue
        try:
            found[piece.name] = Found({**piece.config(own), **piece.facts}, own, prefix)
        except (KeyError, IndexError, StopIteration, ValueError):
            problem = "is not built as this family's is" if prefix in piece.prefixes else "is not in the file"
            raise CheckpointError(f"its {piece.name} {problem}") from None
    channels = found[layout.denoiser].config["in_channels"]
    if channels not in layout.channels:
        raise CheckpointError(f"its {layout.denoiser} takes {channels} channels, a kind that Darkroom does not know")
    return found


def noise_schedule(layout: Layout, shapes: Shapes, metadata: Mapping[str, Any], name: str) -> Config:
    """The scheduler's config: 1000 levels as the family has them, and what the U-Net predicts.

    Raises CheckpointError where neither header nor name tells that of a Stable Diffusion 2.
    """
    if layout.shift:  # by the picture's size for FLUX dev, which alone is told the guidance
        moving = any(key.endswith("guidance_in.in_layer.weight") for key in shapes)
        return {"num_train_timesteps": 1000, "shift": layout.shift, "use_dynamic_shifting": moving}
    config = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "steps_offset": 1,
        "timestep_spacing": "leading",
        "set_alpha_to_one": False,
        "clip_sample": False,
        "prediction_type": _prediction(layout.family, shapes, metadata, name),
    }
    if "ztsnr" in shapes:
        config |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return config


def _prediction(family: str, shapes: Shapes, metadata: Mapping[str, Any], name: str) -> str:
    told = str(metadata.get("modelspec.prediction_type", "")).lower()
    if "v_pred" in shapes or told.startswith("v"):
        return "v_prediction"
    if told.startswith("eps"):
        return "epsilon"
    if re.search(r"v[-_ ]?pred", name, re.IGNORECASE):
        return "v_prediction"
    if family != "sd2":
        return "epsilon"
    # as the published files are named
    hints = {"512": "epsilon", "base": "epsilon", "turbo": "epsilon", "768": "v_prediction"}
    words = f"{name} {metadata.get('modelspec.architecture', '')}".lower()
    for hint, prediction in hints.items():
        if hint in words:
            return prediction
    raise CheckpointError(
        "it does not say whether it predicts noise or velocity; put 512 or 768-v into its name, as it was trained"
    )
