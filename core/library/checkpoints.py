"""The models on disk: what they are, told from headers and configs alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from core.errors import CheckpointError
from core.families import FAMILIES, Family, LatentFormat, pixels_a_latent
from core.library.cards import Card, read_card
from core.library.few_steps import FewSteps, few_steps
from core.library.folders import Folders, models_in
from core.library.headers import (
    MALFORMED,
    count_parameters,
    read_all_shapes,
    read_json,
    read_metadata,
    read_parameterization,
    read_shapes,
    weights_in,
)
from core.library.layouts import Found, Layout, identify, layout_of, noise_schedule, pieces
from core.library.names import the_one
from core.library.parts import CLASSES, Part, Source, shipped_tokenizer
from core.library.shapes import Config
from core.library.sidecars import beside
from core.library.text_encoders import TextEncoder, fitting
from core.memory import Footprint
from core.request import GenerationRequest
from core.samplers import usable

DENOISERS = ("unet", "transformer")
PARTS = (
    *("tokenizer", "tokenizer_2", "tokenizer_3"),
    *("text_encoder", "text_encoder_2", "text_encoder_3"),
    *DENOISERS,
    "vae",
)
OPTIONAL = ("tokenizer_3", "text_encoder_3")  # 10 GB of T5, which people delete: models were trained to do without
STEPS: int = GenerationRequest.model_fields["steps"].default
REFINES = "it is the refiner of SDXL, which cannot draw alone; choose it as refiner of a model of SDXL"
SCHEDULER_SAMPLERS = {"DDIMScheduler": "DDIM"}
"""Schedulers that tell how a model was trained; the others of model folders are only what was in use that year."""


@dataclass(frozen=True)
class Checkpoint:
    """A model of the list. One with a `problem` cannot be used; then only name, title and problem mean anything, but
    for a refiner, which is whole.

    `origin`: the tool in whose folder it lies, nothing for Darkroom's own.
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
    origin: str = ""

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
    def lacks(self) -> tuple[str, ...]:
        """The text encoders that it cannot do without and does not have."""
        if not self.family:
            return ()
        names = {part.name for part in self.parts}
        return tuple(name for name in FAMILIES[self.family].text_encoders if name not in names)

    @property
    def files(self) -> list[Path]:
        """Its own weights, each once: not what it borrows of other models, or a VAE in the place of its own."""
        home = next((part.folder.parent for part in self.parts if part.name in DENOISERS), None)
        own = (part for part in self.parts if part.folder.parent == home)
        return list(dict.fromkeys(file for part in own for file in part.files))

    @property
    def samplers(self) -> tuple[str, ...]:
        """Those that can follow its noise levels."""
        return usable(self.scheduler_config)


def scan(where: Folders, text_encoders: Sequence[TextEncoder] = ()) -> tuple[Checkpoint, ...]:
    """Every model folder and single file in `where`, by name. What cannot be used says why instead of raising.

    Models that come without text encoders draw with those of another model, or of `text_encoders`.
    """
    found = [_describe_safely(name, path) for name, path in models_in(where).items()]
    return tuple(_completed(each, found, text_encoders) if each.lacks else each for each in found)


def _completed(alone: Checkpoint, others: Sequence[Checkpoint], text_encoders: Sequence[TextEncoder]) -> Checkpoint:
    """With the parts that it lacks from the first whole model of its family, else from files of their own."""
    whole = next((o for o in others if o.family == alone.family and not o.lacks and not o.problem), None)
    own = {part.name for part in alone.parts}
    there = whole.parts if whole else fitting(layout_of(alone.family), alone.denoiser_config, text_encoders)
    every = (*(part for part in there if part.name not in own | {"transformer"}), *alone.parts)
    parts = tuple(sorted(every, key=lambda part: PARTS.index(part.name)))
    parameters = {part.name: part.parameters for part in parts}
    completed = replace(
        alone,
        parts=parts,
        footprint=Footprint.of(alone.denoiser_config, alone.vae_config, parameters, alone.footprint.wide_vae),
        clip_skips=whole.clip_skips if whole else _clip_skips(FAMILIES[alone.family], _clip_config(parts)),
    )
    return replace(completed, problem=_what_is_missing(completed, text_encoders)) if completed.lacks else completed


def _what_is_missing(checkpoint: Checkpoint, text_encoders: Iterable[TextEncoder]) -> str:
    pieces = {piece.name: piece for piece in layout_of(checkpoint.family).text_encoders}
    files = " and ".join(pieces[name].published_as for name in checkpoint.lacks)
    title = FAMILIES[checkpoint.family].title
    missing = f"it comes without {files}; put them into models/text_encoders, or a whole {title} beside it"
    broken = (f"; {each.path.name} there cannot be used: {each.problem}" for each in text_encoders if each.problem)
    return missing + "".join(broken)


def named(name: str, known: Iterable[Checkpoint]) -> Checkpoint | None:
    """The model that a name means, see names.py."""
    by_name = {each.name: each for each in known}
    found = the_one(name, by_name)
    return by_name[found] if found is not None else None


def _describe_safely(name: str, path: Path) -> Checkpoint:
    try:
        return _describe(name, path) if path.is_dir() else _describe_file(name, path)
    except CheckpointError as error:
        return Checkpoint(name, path.name, problem=str(error))
    except MALFORMED:
        return Checkpoint(name, path.name, problem="its files do not fit together, or cannot be read")


def _describe_file(name: str, path: Path) -> Checkpoint:
    shapes = read_shapes(path)
    layout = identify(shapes)
    found = pieces(layout, shapes)
    family = FAMILIES[layout.family]
    few, card, told = few_steps(path.stem), read_card(path.with_suffix(".darkroom.json")), beside(path)
    scheduler = noise_schedule(layout, shapes, _told(path, card), path.stem)
    scheduler |= {**family.levels, **(few.levels if few else {})}
    denoiser, vae = (found[name].config for name in (layout.denoiser, "vae"))
    parts = tuple(_file_parts(path, layout, found))
    small = layout.family == "sd2" and scheduler.get("prediction_type") == "epsilon"
    return Checkpoint(
        name=name,
        title=card.title or told.title or path.stem,
        size_bytes=path.stat().st_size,
        native_size=512 if small else family.native_size,
        **_best(family, scheduler, few, card),
        examples=tuple(card.examples),
        latent_format=card.latent_format or family.latent_format,
        options=family.options,
        scheduler_config=scheduler,
        **_facts(layout.family, parts, denoiser, vae),
        clip_skips=_clip_skips(family, _clip_config(parts)),
    )


def _told(path: Path, card: Card) -> dict[str, Any]:
    """What a file's header says of it, and what those beside it know better."""
    predicts = card.prediction_type or read_parameterization(path.with_suffix(".yaml"))
    return read_metadata(path) | ({"modelspec.prediction_type": predicts} if predicts else {})


def _file_parts(path: Path, layout: Layout, found: Mapping[str, Found]) -> Iterator[Part]:
    there = [piece for piece in layout.pieces if piece.name in found and found[piece.name].shapes]
    for piece in there:
        if piece.pad_token:
            yield shipped_tokenizer(piece.name, piece.class_name, piece.pad_token)
    for piece in there:
        config, own, prefix = found[piece.name]
        source = Source(prefix, config)
        yield Part(piece.name, path / piece.name, piece.class_name, path, count_parameters(own), source)


def _describe(name: str, folder: Path) -> Checkpoint:
    index = read_json(folder / "model_index.json")
    predicting = "transformer" if "transformer" in index else "unet"
    reading = "text_encoder" if (index.get("text_encoder") or [None])[0] else "text_encoder_2"
    configs = {name: read_json(folder / name / "config.json") for name in (predicting, "vae", reading)}
    known = _family(index, configs[reading])
    parts, family = tuple(_parts(folder, index)), FAMILIES[known]
    if index[predicting][1] != family.denoiser:
        raise CheckpointError(f"its {predicting} is none of {family.title}")
    card = read_card(folder / "darkroom.json")
    scheduler = {**read_json(folder / "scheduler" / "scheduler_config.json"), **family.levels}
    scheduler |= {"prediction_type": card.prediction_type} if card.prediction_type else {}
    scheduler_class = str(scheduler.get("_class_name", ""))
    sampler = SCHEDULER_SAMPLERS.get(scheduler_class)
    denoiser, vae = configs[predicting], configs["vae"]
    if scheduler.get("time_shift_type", "exponential") != "exponential" or scheduler.get("shift_terminal"):
        raise CheckpointError("its noise levels are shifted in a way that Darkroom does not know")
    return Checkpoint(
        name=name,
        title=card.title or folder.name,
        size_bytes=sum(file.stat().st_size for part in parts for file in part.files),
        native_size=denoiser["sample_size"] * pixels_a_latent(vae)
        if "sample_size" in denoiser
        else family.native_size,
        **_best(family, scheduler, few_steps(folder.name, scheduler_class), card, sampler),
        examples=tuple(card.examples),
        latent_format=card.latent_format or family.latent_format,
        options={key: value for key, value in index.items() if not isinstance(value, list)},
        scheduler_config=scheduler,
        **_facts(known, parts, denoiser, vae),
        clip_skips=_clip_skips(family, configs[reading]),
    )


def _facts(family: str, parts: tuple[Part, ...], denoiser: Config, vae: Config) -> dict[str, Any]:
    """What the configs say of a folder and of a file alike."""
    parameters = {part.name: part.parameters for part in parts}
    return {
        "family": family,
        "problem": REFINES if any(each.refiner == family for each in FAMILIES.values()) else None,
        "inpaints_only": denoiser["in_channels"] == 9,
        "context_width": denoiser.get("cross_attention_dim") or denoiser["joint_attention_dim"],
        "most_side": _most_side(denoiser, vae),
        "footprint": Footprint.of(denoiser, vae, parameters, is_wide(family, vae)),
        "parts": parts,
        "denoiser_config": denoiser,
        "vae_config": vae,
    }


def _clip_config(parts: Iterable[Part]) -> Config:
    """Of the first CLIP out of a file."""
    configs = (part.source.config for part in parts if part.source and part.class_name.startswith("CLIPText"))
    return next(configs, {"num_hidden_layers": 0})


def _clip_skips(family: Family, text: Config) -> int:
    return text["num_hidden_layers"] if family.reads_clip_layers else 1


def _most_side(denoiser: Mapping[str, Any], vae: Mapping[str, Any]) -> int | None:
    """A transformer looks positions up in a table of so many patches; a U-Net has none."""
    table = denoiser.get("pos_embed_max_size")
    return table and table * denoiser["patch_size"] * pixels_a_latent(vae)


def _family(index: Mapping[str, Any], encoder: Mapping[str, Any]) -> str:
    """The family, from the classes and the config of the first text encoder; never a guess for what is unknown."""
    pipeline, said = str(index.get("_class_name")), {**encoder, **index}
    fitting = [
        name
        for name, family in FAMILIES.items()
        if pipeline.startswith(family.pipelines) and said.items() >= family.marks.items()
    ]
    if not fitting:
        raise CheckpointError(f"it is made for {pipeline[:60]}, which Darkroom does not know")
    return max(fitting, key=lambda name: len(FAMILIES[name].marks))


def _best(
    family: Family,
    levels: Mapping[str, Any],
    few: FewSteps | None,
    said: Card,
    sampler: str | None = None,
) -> dict[str, Any]:
    """Sampler, guidance and steps: its maker's, else of how it was distilled or trained, else its family's.

    Of the samplers the first that can follow its noise `levels`.
    """
    known = usable(levels)
    wanted = (said.sampler, few and few.sampler, sampler, family.sampler, *known)
    return {
        "sampler": next(name for name in wanted if name in known),
        "guidance_scale": said.guidance_scale or (few.guidance_scale if few else family.guidance_scale),
        "steps": said.steps or (few.steps if few else STEPS),
    }


def is_wide(family: str, vae: Mapping[str, Any]) -> bool:
    """Whether float16 is too narrow for a VAE, unless it was made to fit, which it says."""
    return FAMILIES[family].wide_vae and bool(vae.get("force_upcast", True))


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
