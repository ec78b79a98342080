"""Single-file checkpoints: what a header's key names say. A family more is a row in LAYOUTS.

Nothing is guessed: a file that fits no row, or does not say what it predicts, is refused with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from core.errors import CheckpointError
from core.headers import refuse
from core.shapes import (
    Config,
    Shapes,
    clip_config,
    flux_config,
    open_clip_config,
    sd2_text_config,
    transformer_config,
    unet_config,
    vae_config,
)

PUBLISHED_VAE: Config = {"latent_channels": 4, "block_out_channels": [128, 256, 512, 512]}  # where a file has none
BARE = ("model.diffusion_model.", "")  # what the keys of a denoiser alone begin with
PROJECTING = "CLIPTextModelWithProjection"
END, ZERO = "<|endoftext|>", "!"  # what fills up a short prompt: OpenAI's way and OpenCLIP's


@dataclass(frozen=True)
class Piece:
    """A component inside a file: keys with `prefix`, a config made from their shapes, and what shapes do not tell."""

    name: str
    class_name: str
    prefix: str
    config: Callable[[Shapes], Config]
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Layout:
    """How the files of a family look: only they have keys that begin with `marker`."""

    family: str
    marker: str
    pieces: tuple[Piece, ...]
    pad_tokens: tuple[str, ...]
    channels: tuple[int, ...] = (4, 9)  # that the model takes: latents alone, or with mask and masked picture
    shift: float | None = None  # of the noise levels of flow matching

    @property
    def denoiser(self) -> str:
        """The piece that predicts."""
        return next(piece.name for piece in self.pieces if piece.name in ("unet", "transformer"))


def _unet(sample_size: int) -> Piece:
    prefix = "model.diffusion_model."
    return Piece("unet", "UNet2DConditionModel", prefix, unet_config, {"sample_size": sample_size})


def _vae(sample_size: int, scaling_factor: float, **more: float) -> Piece:
    facts = {"sample_size": sample_size, "scaling_factor": scaling_factor, **more}
    return Piece("vae", "AutoencoderKL", "first_stage_model.", vae_config, facts)


def _sd3(prefix: str) -> tuple[Piece, Piece]:
    transformer = Piece("transformer", "SD3Transformer2DModel", prefix, transformer_config, {"sample_size": 128})
    return transformer, _vae(1024, 1.5305, latent_channels=16, shift_factor=0.0609)


def _flux(prefix: str) -> tuple[Piece, Piece]:
    transformer = Piece("transformer", "FluxTransformer2DModel", prefix, flux_config, {})
    return transformer, _vae(1024, 0.3611, latent_channels=16, shift_factor=0.1159)


LAYOUTS = (
    Layout(
        "sd1",
        "cond_stage_model.transformer.",
        (
            Piece("text_encoder", "CLIPTextModel", "cond_stage_model.transformer.", clip_config, {}),
            _unet(64),
            _vae(512, 0.18215),
        ),
        (END,),
    ),
    Layout(
        "sd2",
        "cond_stage_model.model.",
        (
            Piece("text_encoder", "CLIPTextModel", "cond_stage_model.model.", sd2_text_config, {}),
            _unet(96),
            _vae(768, 0.18215),
        ),
        (ZERO,),
    ),
    Layout(
        "sdxl",
        "conditioner.embedders.1.model.",
        (
            Piece("text_encoder", "CLIPTextModel", "conditioner.embedders.0.transformer.", clip_config, {}),
            Piece(
                "text_encoder_2",
                PROJECTING,
                "conditioner.embedders.1.model.",
                open_clip_config,
                {},
            ),
            _unet(128),
            _vae(1024, 0.13025),
        ),
        (END, ZERO),
    ),
    Layout(
        "refiner",
        "conditioner.embedders.0.model.",
        (
            Piece("text_encoder_2", PROJECTING, "conditioner.embedders.0.model.", open_clip_config, {}),
            _unet(128),
            _vae(1024, 0.13025),
        ),
        (ZERO,),
        channels=(4,),
    ),
    Layout(
        "sd3",
        "text_encoders.clip_g.",
        (
            Piece("text_encoder", PROJECTING, "text_encoders.clip_l.transformer.", clip_config, {}),
            Piece(
                "text_encoder_2",
                PROJECTING,
                "text_encoders.clip_g.transformer.",
                clip_config,
                {"hidden_act": "gelu"},
            ),
            *_sd3("model.diffusion_model."),
        ),
        (END, ZERO),
        channels=(16,),
        shift=3.0,
    ),
    *(Layout("sd3", f"{bare}joint_blocks.", _sd3(bare), (), channels=(16,), shift=3.0) for bare in BARE),
    *(Layout("flux", f"{bare}double_blocks.", _flux(bare), (), channels=(64,), shift=1.0) for bare in BARE),
)
"""In the order of asking. Those without text encoders draw with the encoders of another model of the family."""

REFUSED = (
    (r"^lora_|\.lora_(A|B|up|down|linear)", "it is a LoRA, which belongs into models/loras"),
    (r"^control_model\.|^controlnet_cond_embedding\.", "it is a ControlNet, which belongs into models/controlnet"),
    (r"\.(weight_scale_2|absmax)$", "its weights have 4 bits, which Darkroom does not read"),
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
        if any(key.startswith(layout.marker) for key in shapes):
            return layout
    refuse(INCOMPLETE, shapes)
    raise CheckpointError("its tensors are of no kind of model that Darkroom knows")


def pieces(layout: Layout, shapes: Shapes) -> dict[str, tuple[Config, Shapes]]:
    """Each piece's config and its own tensors, by its name. Raises CheckpointError for a piece that does not fit.

    A VAE may be missing: it then has the family's config and no tensors.
    """
    found: dict[str, tuple[Config, Shapes]] = {}
    for piece in layout.pieces:
        own = {key.removeprefix(piece.prefix): shape for key, shape in shapes.items() if key.startswith(piece.prefix)}
        try:
            missing = piece.name == "vae" and not own
            config = PUBLISHED_VAE if missing else piece.config(own)
            found[piece.name] = ({**config, **piece.facts}, own)
        except (KeyError, IndexError, StopIteration, ValueError):
            problem = "is not built as this family's is" if own else "is not in the file"
            raise CheckpointError(f"its {piece.name} {problem}") from None
    channels = found[layout.denoiser][0]["in_channels"]
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
