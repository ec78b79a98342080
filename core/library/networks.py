"""The ControlNets on disk: what each is for, told from headers and configs, and which ones a request asks for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from core.errors import CheckpointError, RequestError
from core.families import BY_CONTEXT_WIDTH, FAMILIES
from core.library.checkpoints import Checkpoint
from core.library.folders import Folders, models_in
from core.library.headers import (
    MALFORMED,
    count_parameters,
    read_all_shapes,
    read_json,
    read_shapes,
    refuse,
    weights_in,
    without_prefix,
)
from core.library.parts import Part, Source
from core.library.shapes import Config, Shapes, controlnet_config, flux_controlnet_config, sd3_controlnet_config
from core.request import CONTROL_TYPES, FLUX_TYPES, Control, GenerationRequest, suited

PREFIX = "control_model."  # of the original layout's keys


@dataclass(frozen=True)
class Kind:
    """A class of networks: `marker` is a tensor that all of them have and no other; `config` makes a file's from its
    shapes; `fitting` is what that has in common with the config of the model that is steered, which is of `family`
    unless a width tells.
    """

    class_name: str
    marker: str
    config: Callable[[Shapes], Config]
    fitting: tuple[str, ...]
    family: str | None = None


OF_UNETS = ("cross_attention_dim", "block_out_channels", "layers_per_block")
OF_TRANSFORMERS = ("num_attention_heads", "attention_head_dim", "in_channels")
KINDS = (
    Kind("SD3ControlNetModel", r"^pos_embed_input\.", sd3_controlnet_config, OF_TRANSFORMERS, "sd3"),
    Kind("FluxControlNetModel", r"^controlnet_x_embedder\.", flux_controlnet_config, OF_TRANSFORMERS, "flux"),
    Kind("ControlNetUnionModel", r"^task_embedding$", controlnet_config, OF_UNETS),
    Kind(
        "ControlNetModel",
        r"^(controlnet_cond_embedding|(control_model\.)?input_hint_block)\.",
        controlnet_config,
        OF_UNETS,
    ),
)
FULL_WIDTH = 320  # of the first level of all published U-Nets
REFUSED = (
    (r"^lora_controlnet$", "it is a Control-LoRA, which Darkroom does not know"),
    (r"^lllite_", "it is a ControlNet-LLLite, which Darkroom does not know"),
    (r"^(adapter\.)?body\.\d", "it is a T2I-Adapter, which Darkroom does not know"),
    (r"^lora_|\.lora_(A|B|up|down)", "it is a LoRA, which belongs into models/loras"),
    (
        r"(double_blocks|joint_blocks)\.",
        "it is for FLUX or SD 3 in the original layout; put the folder that diffusers has of it here",
    ),
    (r"^(control_model\.)?label_emb\.", "it is for XL in the original layout, which Darkroom does not know"),
)
"""What is often put into the folder and is no ControlNet that we know: a pattern of its keys, and what to say."""


@dataclass(frozen=True)
class Network:
    """A ControlNet of the list. One with a `problem` cannot be used; then only name, title and problem mean anything.

    `family` is None for one that has no published models, such as the pocket model's. `control_types`: the kinds of
    maps that a Union knows. `begins`: a unit's own values with this network. `origin`: the tool in whose folder it
    lies, nothing for Darkroom's own.
    """

    name: str
    title: str
    problem: str | None = None
    part: Part | None = None
    kind: Kind | None = None
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    family: str | None = None
    control_types: tuple[str, ...] = ()
    begins: Control | None = None
    origin: str = ""

    def fits(self, checkpoint: Checkpoint) -> bool:
        """A network of FLUX's may want to be told the guidance, which not every model is."""
        model, own = checkpoint.denoiser_config, self.config
        if self.kind is None or (own.get("guidance_embeds") and not model.get("guidance_embeds")):
            return False
        return all(_plain(own.get(name)) == _plain(model.get(name)) for name in self.kind.fitting)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def scan(where: Folders) -> tuple[Network, ...]:
    """Every ControlNet in `where`, by name. What cannot be used says why instead of raising."""
    return tuple(_describe_safely(name, path) for name, path in models_in(where).items())


def asked_for(request: GenerationRequest, checkpoint: Checkpoint, known: Sequence[Network]) -> list[Part]:
    """The networks of a request's units, in their order, each checked against the checkpoint.

    Raises RequestError, or CheckpointError for one that is broken.
    """
    return [_asked_for(unit, checkpoint, known, k) for k, unit in enumerate(request.controls)]


def _asked_for(unit: Control, checkpoint: Checkpoint, known: Sequence[Network], index: int) -> Part:
    field, label = f"controls[{index}]", f"ControlNet {index + 1}"
    network = next((network for network in known if network.name == unit.net), None)
    if network is None:
        fitting = [other.name for other in known if other.part and other.fits(checkpoint)]
        allowed = (
            "one of " + ", ".join(fitting) if fitting else f"a network for {checkpoint.title}; there is none yet"
        )
        raise RequestError(f"{field}.net", unit.net, allowed, f"{label}: Network")
    if network.part is None:
        raise CheckpointError(f"{label}: {network.name} cannot be used: {network.problem}.")
    if not network.fits(checkpoint):
        family = FAMILIES[network.family].title if network.family else "another model"
        allowed = f"a network for {checkpoint.title}; this one is for {family}"
        raise RequestError(f"{field}.net", unit.net, allowed, f"{label}: Network")
    if not network.part.weights or not network.part.weights.is_file():
        raise RequestError(
            f"{field}.net", unit.net, "one that is still on disk; look for models again", f"{label}: Network"
        )
    if network.control_types:
        _check_type(unit, network, field, label)
    return network.part


def _check_type(unit: Control, network: Network, field: str, label: str) -> None:
    """A Union must be told what the map shows, and know that kind of map."""
    if unit.shows not in network.control_types:
        allowed = f"one of {', '.join(network.control_types)} with {network.title}"
        raise RequestError(f"{field}.control_type", unit.shows, allowed, f"{label}: Map shows")


def check_weights(part: Part, net: Any) -> None:
    """Raises CheckpointError for a loaded network that would turn every picture black."""
    if not all(bool(tensor.isfinite().all()) for tensor in net.parameters()):
        raise CheckpointError(f"ControlNet: {part.called[1]} is damaged: it holds values that are no numbers.")


def _describe_safely(name: str, path: Path) -> Network:
    try:
        found = _describe_folder(path) if path.is_dir() else _describe_file(path)
        return replace(found, name=name, begins=found.begins and found.begins.replace(net=name))
    except CheckpointError as error:
        return Network(name, path.name, str(error))
    except MALFORMED:
        return Network(name, path.name, "it is no ControlNet of a kind that Darkroom knows, or cannot be read")


def _describe_folder(folder: Path) -> Network:
    config = read_json(folder / "config.json")
    weights = weights_in(folder)
    shapes = read_all_shapes(weights)
    kind = _kind(shapes)
    part = Part("controlnet", folder, kind.class_name, weights, count_parameters(shapes))
    card = read_json(folder / "darkroom.json") if (folder / "darkroom.json").exists() else {}
    return _network(part, kind, _control_types(shapes), config, card)


def _describe_file(path: Path) -> Network:
    shapes = read_shapes(path)
    kind = _kind(shapes)
    prefix, own = without_prefix(shapes, PREFIX)
    config = kind.config(own)
    part = Part("controlnet", path, kind.class_name, path, count_parameters(own), Source(prefix, config))
    return _network(part, kind, _control_types(own), config, {})


def _network(
    part: Part, kind: Kind, control_types: tuple[str, ...], config: Config, card: Mapping[str, Any]
) -> Network:
    """`card`: darkroom.json, a title and a unit's own values."""
    if config.get("extra_conditioning_channels"):
        raise CheckpointError("it wants to see a mask too, a kind that Darkroom does not know")
    name = part.folder.name
    made_for = suited(part.folder.stem)
    values = {"preprocessor": "canny" if control_types and made_for == "none" else made_for, **card}
    title = str(values.pop("title", part.folder.stem))[:100]
    try:
        begins = Control(net=name, **values)
    except (RequestError, TypeError) as error:
        raise CheckpointError(f"its darkroom.json is not right: {error}") from None
    family = kind.family
    if kind.fitting == OF_UNETS and config["block_out_channels"][0] == FULL_WIDTH:
        family = BY_CONTEXT_WIDTH.get(config["cross_attention_dim"])
    return Network(name, title, None, part, kind, config, family, control_types, begins)


def _control_types(shapes: Shapes) -> tuple[str, ...]:
    """What a Union has a row for."""
    of_flux, *_ = shapes.get("controlnet_mode_embedder.weight", (0,))
    of_xl, *_ = shapes.get("task_embedding", (0,))
    return (*(name for name, number in FLUX_TYPES.items() if number < of_flux), *CONTROL_TYPES[:of_xl])


def _kind(shapes: Shapes) -> Kind:
    """Raises CheckpointError, with the reason, for what is no ControlNet that we know."""
    refuse(REFUSED, shapes)
    for kind in KINDS:
        if any(re.search(kind.marker, key) for key in shapes):
            return kind
    whole = any(key.startswith("model.diffusion_model.") for key in shapes)
    raise CheckpointError(
        "it is a whole model, which belongs into models/checkpoints" if whole else "it is no ControlNet"
    )
