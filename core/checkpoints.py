"""The models on disk: what they are, told from headers and configs alone, and the loading of their parts."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError

from core.cache import Key
from core.defaults import FewSteps, few_steps
from core.errors import CheckpointError, RequestError
from core.families import FAMILIES, Family, LatentFormat
from core.headers import (
    count_parameters,
    is_half,
    model_paths,
    read_all_shapes,
    read_json,
    read_metadata,
    read_shapes,
    shards,
    weights_in,
)
from core.layouts import Layout, identify, noise_schedule, pieces
from core.memory import Footprint, is_out_of_memory
from core.request import GenerationRequest
from core.samplers import EVEN_SIGMAS, usable
from core.shapes import Config
from core.units import UPSCALERS
from core.vocabulary import CLIP_MERGES, clip_tokenizer

PARTS = (
    *("tokenizer", "tokenizer_2", "tokenizer_3"),
    *("text_encoder", "text_encoder_2", "text_encoder_3"),
    *("unet", "transformer", "vae"),
)
LEVELS = {"flux": {EVEN_SIGMAS: True}}  # what schedulers' configs do not say
OPTIONS = {"refiner": {"force_zeros_for_empty_prompt": False}}  # of the published model, for its single files
OPTIONAL = ("tokenizer_3", "text_encoder_3")  # 10 GB of T5, which people delete: models were trained to do without
SWIN2SR = "Swin2SRForImageSuperResolution"
DEPTH = ("DepthAnythingForDepthEstimation", "DPTForDepthEstimation")
POSE = ("VitPoseForPoseEstimation",)
CLASSES = {
    "CLIPTokenizer": "transformers",
    "CLIPTextModel": "transformers",
    "CLIPTextModelWithProjection": "transformers",
    "T5TokenizerFast": "transformers",
    "T5Tokenizer": "transformers",
    "T5EncoderModel": "transformers",
    "UNet2DConditionModel": "diffusers",
    "SD3Transformer2DModel": "diffusers",
    "FluxTransformer2DModel": "diffusers",
    "ControlNetModel": "diffusers",
    "ControlNetUnionModel": "diffusers",
    "AutoencoderKL": "diffusers",
    SWIN2SR: "transformers",
    **dict.fromkeys((*DEPTH, *POSE), "transformers"),
}
"""The classes that a model folder may name, and the library of each; no other is ever imported."""
STEPS: int = GenerationRequest.model_fields["steps"].default
REFINES = "it is the refiner of SDXL, which cannot draw alone; choose it as refiner of a model of SDXL"
CLIP_SIDE = ("sdxl", "refiner", "sd3")  # families that never read CLIP's last layer
SCHEDULER_SAMPLERS = {"DDIMScheduler": "DDIM"}
"""Schedulers that tell how a model was trained; the others of model folders are only what was in use that year."""


@dataclass(frozen=True)
class Source:
    """How a part of a single file is made: which keys it takes, and its config. A tokenizer takes none."""

    prefix: str
    config: Config


@dataclass(frozen=True)
class Part:
    """A component of a checkpoint: its folder, the weights in it (None: a tokenizer) and what identifies them.

    Of a single file, `folder` is only the name of the part in it, and `source` says how it is made.
    """

    name: str
    folder: Path
    class_name: str
    weights: Path | None = None
    parameters: int = 0
    source: Source | None = field(default=None, repr=False)

    @property
    def variant(self) -> str | None:
        """What diffusers calls weights in half precision that are so named."""
        return "fp16" if self.weights and is_half(self.weights) else None

    @property
    def key(self) -> Key:
        """Raises CheckpointError if its file is no longer there."""
        try:
            file = (self.weights or (CLIP_MERGES if self.source else self.folder)).stat()
        except OSError:
            label, what = self.called
            raise CheckpointError(f"{label}: the file of {what} is no longer there; look for models again.") from None
        return (self.folder, file.st_size if self.weights else 0, file.st_mtime_ns)

    @property
    def files(self) -> list[Path]:
        """Those of its weights."""
        return shards(self.weights) if self.weights else []

    @property
    def called(self) -> tuple[str, str]:
        """What it is called in messages: a label, and itself."""
        return ("ControlNet", self.folder.name) if self.name == "controlnet" else ("Model", f"its {self.name}")


@dataclass(frozen=True)
class Checkpoint:
    """A model of the list. One with a `problem` cannot be used; then only name, title and problem mean anything, but
    for a refiner, which is whole.

    `context_width` is that of the text embeddings its U-Net or transformer reads, `most_side` the longest side in
    pixels that it has places for (None: any).
    """

    name: str
    title: str
    family: str = ""
    size_bytes: int = 0
    native_size: int = 0
    sampler: str = ""
    guidance_scale: float = 0.0
    steps: int = STEPS
    clip_skips: int = 0
    inpaints_only: bool = False
    context_width: int = 0
    most_side: int | None = None
    examples: tuple[str, ...] = ()
    problem: str | None = None
    latent_format: LatentFormat | None = None
    footprint: Footprint = field(default=Footprint())
    parts: tuple[Part, ...] = ()
    scheduler_config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    denoiser_config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    vae_config: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def is_refiner(self) -> bool:
        """Whether it goes on where another one stopped; it cannot be chosen as a request's checkpoint."""
        return self.problem == REFINES

    @property
    def has_distilled_guidance(self) -> bool:
        return bool(self.denoiser_config.get("guidance_embeds"))

    @property
    def text_encoders(self) -> int:
        return sum(part.name.startswith("text_encoder") for part in self.parts)

    @property
    def samplers(self) -> tuple[str, ...]:
        """Those that can follow its noise levels."""
        return usable(self.scheduler_config)


class Card(BaseModel):
    """darkroom.json beside a model: what its maker knows better than its family's usual values."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    title: str | None = None
    sampler: str | None = None
    guidance_scale: float | None = None
    steps: int | None = None
    examples: list[str] = []
    latent_rgb_factors: list[list[float]] | None = None
    latent_rgb_bias: list[float] | None = None


def scan(folder: Path) -> tuple[Checkpoint, ...]:
    """Every model folder and single file in `folder`, by name. What cannot be used says why instead of raising."""
    return tuple(_describe_safely(path) for path in model_paths(folder))


def list_upscalers(folder: Path) -> tuple[str, ...]:
    """What a second pass may enlarge with: ways that need no model, and the models in `folder`."""
    return *UPSCALERS, *sorted(path.parent.name for path in folder.glob("*/config.json"))


def find_upscaler(folder: Path, name: str) -> Part | None:
    """The super-resolution model in `folder`/`name`; None for the upscalers that need none.

    Raises RequestError if there is none, CheckpointError if it is damaged.
    """
    if name in UPSCALERS:
        return None
    known = list_upscalers(folder)
    if name not in known:
        raise RequestError("hires.upscaler", name, "one of " + ", ".join(known), "Hires: Upscaler")
    try:
        return sole_part("upscaler", folder / name, (SWIN2SR,))
    except CheckpointError as error:
        raise CheckpointError(f"Upscaler: {name} cannot be used: {error}.") from None


def sole_part(name: str, folder: Path, class_names: Sequence[str]) -> Part:
    """The network in a folder of transformers. Raises CheckpointError if it is of another class, or damaged."""
    made_by = read_json(folder / "config.json").get("architectures")
    for class_name in class_names:
        if made_by == [class_name]:
            weights = weights_in(folder)
            return Part(name, folder, class_name, weights, count_parameters(read_shapes(weights)))
    raise CheckpointError(f"it is no {' or '.join(class_names)} of transformers")


def _describe_safely(path: Path) -> Checkpoint:
    try:
        return _describe(path) if path.is_dir() else _describe_file(path)
    except CheckpointError as error:
        return Checkpoint(path.name, path.name, problem=str(error))
    except (OSError, KeyError, TypeError, ValueError, AttributeError):
        return Checkpoint(path.name, path.name, problem="its files do not fit together, or cannot be read")


def _describe_file(path: Path) -> Checkpoint:
    shapes = read_shapes(path)
    layout = identify(shapes)
    found = pieces(layout, shapes)
    family = FAMILIES[layout.family]
    few = few_steps(path.stem)
    scheduler = noise_schedule(layout, shapes, read_metadata(path), path.stem)
    scheduler |= few.levels if few else {}
    text = next(config for name, (config, _) in found.items() if name.startswith("text_encoder"))
    denoiser, vae = (found[name][0] for name in (layout.denoiser, "vae"))
    parts = tuple(_file_parts(path, layout, found))
    small = layout.family == "sd2" and scheduler.get("prediction_type") == "epsilon"
    return Checkpoint(
        name=path.name,
        title=path.stem,
        family=layout.family,
        size_bytes=path.stat().st_size,
        native_size=512 if small else family.native_size,
        **_best(family, few),
        clip_skips=_clip_skips(layout.family, text),
        inpaints_only=denoiser["in_channels"] == 9,
        context_width=_context_width(denoiser),
        most_side=_most_side(denoiser, vae),
        problem=REFINES if layout.family == "refiner" else None,
        options=OPTIONS.get(layout.family, {}),
        latent_format=family.latent_format,
        footprint=Footprint.of(
            denoiser, vae, {part.name: part.parameters for part in parts}, is_wide(layout.family, vae)
        ),
        parts=parts,
        scheduler_config=scheduler,
        denoiser_config=denoiser,
        vae_config=vae,
    )


def _file_parts(path: Path, layout: Layout, found: Mapping[str, tuple[Config, Any]]) -> Iterator[Part]:
    for index, pad_token in enumerate(layout.pad_tokens):
        name = "tokenizer" if index == 0 else f"tokenizer_{index + 1}"
        yield Part(name, CLIP_MERGES / pad_token, "CLIPTokenizer", source=Source("", {"pad_token": pad_token}))
    for piece in layout.pieces:
        config, own = found[piece.name]
        source = Source(piece.prefix, config)
        yield Part(piece.name, path / piece.name, piece.class_name, path, count_parameters(own), source)


def _describe(folder: Path) -> Checkpoint:
    index = read_json(folder / "model_index.json")
    predicting = "transformer" if "transformer" in index else "unet"
    reading = "text_encoder" if (index.get("text_encoder") or [None])[0] else "text_encoder_2"
    configs = {name: read_json(folder / name / "config.json") for name in (predicting, "vae", reading)}
    name = _family(index, configs[reading])
    parts = tuple(_parts(folder, index))
    card = _card(folder / "darkroom.json")
    family = FAMILIES[name]
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    scheduler_class = str(scheduler.get("_class_name", ""))
    denoiser, vae = configs[predicting], configs["vae"]
    if scheduler.get("time_shift_type", "exponential") != "exponential" or scheduler.get("shift_terminal"):
        raise CheckpointError("its noise levels are shifted in a way that Darkroom does not know")
    return Checkpoint(
        name=folder.name,
        title=card.title or folder.name,
        family=name,
        size_bytes=sum(file.stat().st_size for part in parts for file in part.files),
        native_size=denoiser["sample_size"] * _pixels(vae) if "sample_size" in denoiser else family.native_size,
        **_best(family, few_steps(folder.name, scheduler_class), card, SCHEDULER_SAMPLERS.get(scheduler_class)),
        clip_skips=_clip_skips(name, configs[reading]),
        inpaints_only=denoiser["in_channels"] == 9,
        context_width=_context_width(denoiser),
        most_side=_most_side(denoiser, vae),
        problem=REFINES if name == "refiner" else None,
        examples=tuple(card.examples),
        latent_format=_latent_format(card) or family.latent_format,
        footprint=_footprint(name, parts, denoiser, vae),
        parts=parts,
        scheduler_config=scheduler | LEVELS.get(name, {}),
        options={key: value for key, value in index.items() if not isinstance(value, list)},
        denoiser_config=denoiser,
        vae_config=vae,
    )


def _clip_skips(family: str, text: Mapping[str, Any]) -> int:
    """How many of CLIP's layers, counted from the last, can be read; FLUX reads none."""
    layers: int = text["num_hidden_layers"]
    return 1 if family == "flux" else layers - (1 if family in CLIP_SIDE else 0)


def _pixels(vae: Mapping[str, Any]) -> int:
    """That a latent is wide."""
    width: int = 2 ** (len(vae["block_out_channels"]) - 1)
    return width


def _context_width(denoiser: Mapping[str, Any]) -> int:
    width: int = denoiser.get("cross_attention_dim") or denoiser["joint_attention_dim"]
    return width


def _most_side(denoiser: Mapping[str, Any], vae: Mapping[str, Any]) -> int | None:
    """A transformer looks positions up in a table of so many patches; a U-Net has none."""
    table = denoiser.get("pos_embed_max_size")
    return table and table * denoiser["patch_size"] * _pixels(vae)


def _family(index: Mapping[str, Any], encoder: Mapping[str, Any]) -> str:
    """The family, from the classes and the config of the first text encoder; never a guess for what is unknown."""
    pipeline = str(index.get("_class_name"))
    if pipeline.startswith("StableDiffusionXL"):
        return "refiner" if index.get("requires_aesthetics_score") else "sdxl"
    if pipeline.startswith(("StableDiffusionPipeline", "StableDiffusionInpaint", "StableDiffusionImg2Img")):
        return "sd2" if encoder.get("hidden_act") == "gelu" else "sd1"
    for beginning, family in (("StableDiffusion3", "sd3"), ("FluxPipeline", "flux")):
        if pipeline.startswith(beginning):
            return family
    raise CheckpointError(f"it is made for {pipeline[:60]}, which Darkroom does not know")


def _best(
    family: Family, few: FewSteps | None, card: Card | None = None, sampler: str | None = None
) -> dict[str, Any]:
    """Sampler, guidance and steps: its maker's, else of how it was distilled or trained, else its family's."""
    said = card or Card()
    return {
        "sampler": said.sampler or (few.sampler if few else sampler or family.sampler),
        "guidance_scale": said.guidance_scale or (few.guidance_scale if few else family.guidance_scale),
        "steps": said.steps or (few.steps if few else STEPS),
    }


def _footprint(family: str, parts: Iterable[Part], unet: Mapping[str, Any], vae: Mapping[str, Any]) -> Footprint:
    return Footprint.of(unet, vae, {part.name: part.parameters for part in parts}, is_wide(family, vae))


def is_wide(family: str, vae: Mapping[str, Any]) -> bool:
    """Whether float16 is too narrow for a VAE: for XL's, but for those made to fit, which say so."""
    return family == "sdxl" and bool(vae.get("force_upcast", True))


def _parts(folder: Path, index: Mapping[str, Any]) -> Iterator[Part]:
    for name in PARTS:
        class_name = (index.get(name) or [None, None])[1]
        if class_name is None:
            continue
        if class_name not in CLASSES:
            raise CheckpointError(f"its {name} is a {str(class_name)[:60]}, which Darkroom does not know")
        if name in OPTIONAL and not all((folder / each).is_dir() for each in OPTIONAL):
            continue
        if name.startswith("tokenizer"):
            yield Part(name, folder / name, class_name)
            continue
        weights = weights_in(folder / name)
        yield Part(name, folder / name, class_name, weights, count_parameters(read_all_shapes(weights)))


def _card(path: Path) -> Card:
    if not path.exists():
        return Card()
    try:
        return Card.model_validate_json(path.read_bytes())
    except ValidationError as error:
        field_name = ".".join(str(part) for part in error.errors()[0]["loc"]) or "the file"
        raise CheckpointError(f"its darkroom.json is not right: {field_name}") from None


def _latent_format(card: Card) -> LatentFormat | None:
    if card.latent_rgb_factors is None:
        return None
    rows = tuple((r, g, b) for r, g, b in card.latent_rgb_factors)
    r, g, b = card.latent_rgb_bias or (0.0, 0.0, 0.0)
    return LatentFormat(rows, (r, g, b))


def load_part(part: Part, device: str, dtype: str) -> Any:
    """One component, ready to run. Raises CheckpointError if its files are damaged or do not fit its config."""
    try:
        if part.source:
            return _load_from_file(part, part.source, device, dtype)
        library = importlib.import_module(CLASSES[part.class_name])
        loader = getattr(library, part.class_name).from_pretrained
        if part.weights is None:
            return loader(part.folder, local_files_only=True)
        return _load_weights(loader, part, dtype).to(device).requires_grad_(False).eval()
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        label, what = part.called
        raise CheckpointError(f"{label}: {what} is damaged or does not fit its config.") from error


def _load_from_file(part: Part, source: Source, device: str, dtype: str) -> Any:
    if part.weights is None:
        return clip_tokenizer(**source.config)
    import torch

    from core.single_file import load_component

    model = load_component(part, CLASSES[part.class_name], device, getattr(torch, dtype))
    return model.requires_grad_(False).eval()


def _load_weights(loader: Callable[..., Any], part: Part, dtype: str) -> Any:
    import torch

    model, info = loader(
        part.folder,
        local_files_only=True,
        use_safetensors=True,
        variant=part.variant,
        dtype=getattr(torch, dtype),
        output_loading_info=True,
    )
    if info["missing_keys"]:
        raise ValueError(f"{len(info['missing_keys'])} tensors are missing")
    return model
