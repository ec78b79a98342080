"""The ControlNets on disk: what each is for, told from headers and configs, and which ones a request asks for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.checkpoints import Checkpoint
from core.errors import CheckpointError, RequestError
from core.families import BY_CONTEXT_WIDTH, FAMILIES
from core.headers import count_parameters, model_paths, read_json, read_shapes, weights_in, without_prefix
from core.parts import Part, Source
from core.preprocess import CONTROL_TYPES, suited
from core.request import GenerationRequest
from core.shapes import Config, Shapes, controlnet_config
from core.units import Control

PREFIX = "control_model."  # of the original layout's keys
FITTING = ("cross_attention_dim", "block_out_channels", "layers_per_block")
"""What a network's config has in common with that of the U-Net that it steers."""
FULL_WIDTH = 320  # of the first level of all published U-Nets
REFUSED = (
    (r"^lora_controlnet$", "it is a Control-LoRA, which Darkroom does not know"),
    (r"^lllite_", "it is a ControlNet-LLLite, which Darkroom does not know"),
    (r"^(adapter\.)?body\.\d", "it is a T2I-Adapter, which Darkroom does not know"),
    (r"^lora_|\.lora_(A|B|up|down)", "it is a LoRA, which belongs into models/loras"),
    (
        r"(double_blocks|joint_blocks|transformer_blocks)\.\d+\.attn\.",
        "it is for FLUX or SD 3, which Darkroom does not know",
    ),
    (r"^(control_model\.)?label_emb\.", "it is for XL in the original layout, which Darkroom does not know"),
)
"""What is often put into the folder and is no ControlNet that we know: a pattern of its keys, and what to say."""
UNION = "task_embedding"  # the one tensor that only a Union has: a row for each kind of map
HINT = r"(^|\.)(controlnet_cond_embedding|input_hint_block)\."  # what takes the map: every ControlNet has it


@dataclass(frozen=True)
class Network:
    """A ControlNet of the list. One with a `problem` cannot be used; then only name, title and problem mean anything.

    `family` is None for one that has no published models, such as the pocket model's. `control_types`: how many kinds
    of maps a Union knows, else 0. `begins`: a unit's own values with this network.
    """

    name: str
    title: str
    problem: str | None = None
    part: Part | None = None
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    family: str | None = None
    control_types: int = 0
    begins: Control | None = None

    def fits(self, checkpoint: Checkpoint) -> bool:
        return all(_plain(self.config.get(name)) == _plain(checkpoint.denoiser_config.get(name)) for name in FITTING)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def scan(folder: Path) -> tuple[Network, ...]:
    """Every ControlNet in `folder`, by name. What cannot be used says why instead of raising."""
    return tuple(_describe_safely(path) for path in model_paths(folder))


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
    kinds = CONTROL_TYPES[: network.control_types]
    if unit.shows not in kinds:
        allowed = f"one of {', '.join(kinds)} with {network.title}"
        raise RequestError(f"{field}.control_type", unit.shows, allowed, f"{label}: Map shows")


def check_weights(part: Part, net: Any) -> None:
    """Raises CheckpointError for a loaded network that would turn every picture black."""
    if not all(bool(tensor.isfinite().all()) for tensor in net.parameters()):
        raise CheckpointError(f"ControlNet: {part.called[1]} is damaged: it holds values that are no numbers.")


def _describe_safely(path: Path) -> Network:
    try:
        return _describe_folder(path) if path.is_dir() else _describe_file(path)
    except CheckpointError as error:
        return Network(path.name, path.name, str(error))
    except (OSError, KeyError, IndexError, TypeError, ValueError, AttributeError, StopIteration):
        return Network(path.name, path.name, "it is no ControlNet of a kind that Darkroom knows, or cannot be read")


def _describe_folder(folder: Path) -> Network:
    config = read_json(folder / "config.json")
    weights = weights_in(folder)
    shapes = read_shapes(weights)
    _refuse(shapes)
    part = Part("controlnet", folder, _class_name(shapes), weights, count_parameters(shapes))
    card = read_json(folder / "darkroom.json") if (folder / "darkroom.json").exists() else {}
    return _network(part, config, card, shapes)


def _describe_file(path: Path) -> Network:
    shapes = read_shapes(path)
    _refuse(shapes)
    prefix, own = without_prefix(shapes, PREFIX)
    config = controlnet_config(own)
    part = Part("controlnet", path, _class_name(own), path, count_parameters(own), Source(prefix, config))
    return _network(part, config, {}, own)


def _network(part: Part, config: Config, card: Mapping[str, Any], shapes: Shapes) -> Network:
    """`card`: darkroom.json, a title and a unit's own values."""
    name, (control_types, *_) = part.folder.name, shapes.get(UNION, (0,))
    made_for = suited(part.folder.stem)
    values = {"preprocessor": "canny" if control_types and made_for == "none" else made_for, **card}
    title = str(values.pop("title", part.folder.stem))[:100]
    try:
        begins = Control(net=name, **values)
    except (RequestError, TypeError) as error:
        raise CheckpointError(f"its darkroom.json is not right: {error}") from None
    is_full = config["block_out_channels"][0] == FULL_WIDTH
    family = BY_CONTEXT_WIDTH.get(config["cross_attention_dim"]) if is_full else None
    return Network(name, title, None, part, config, family, control_types, begins)


def _refuse(shapes: Shapes) -> None:
    for pattern, reason in REFUSED:
        if any(re.search(pattern, key) for key in shapes):
            raise CheckpointError(reason)
    if any(re.search(HINT, key) for key in shapes):
        return
    whole = any(key.startswith("model.diffusion_model.") for key in shapes)
    raise CheckpointError(
        "it is a whole model, which belongs into models/checkpoints" if whole else "it is no ControlNet"
    )


def _class_name(shapes: Shapes) -> str:
    return "ControlNetUnionModel" if UNION in shapes else "ControlNetModel"
