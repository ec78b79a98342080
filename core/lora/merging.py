"""LoRAs merged into a model's weights: one path for every format, and the way back, bit for bit.

A run costs what it costs without LoRAs; switching costs one pass over the weights that change. What a weight was is
kept, in memory, for as long as something is merged into it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from core.errors import LoraError
from core.families.work import forget_prompts
from core.lora.delta import Factors, LoraFile, Misfit
from core.lora.names import Place, layers
from core.lora.transformers import Rows, Target
from core.request import Lora

Parts = Mapping[str, Any]
"""A model's networks by the names of their folders: unet, text_encoder, text_encoder_2."""


@dataclass(frozen=True)
class LoraReport:
    """What became of a LoRA: how many of its layers the model has, for each of its parts, and which it has not."""

    name: str
    hash: str
    matched: Mapping[str, int]
    unmatched: tuple[str, ...]

    def __str__(self) -> str:
        of = sum(self.matched.values()) + len(self.unmatched)
        parts = ", ".join(f"{count} in {part}" for part, count in self.matched.items())
        return f"{self.name}: {of - len(self.unmatched)} of {of} layers merged ({parts})"


@dataclass(frozen=True)
class Merged:
    """What a run has in its weights. `text_state` tells apart all that encodes prompts differently."""

    reports: tuple[LoraReport, ...]
    text_state: tuple[tuple[str, float], ...]


class Addition(NamedTuple):
    """One LoRA's part of one weight. Equal ones add the same."""

    hash: str
    weight: float
    place: Place
    rows: Rows | None


Recipe = tuple[Addition, ...]


@dataclass
class _State:
    """Of one network: its layers by every name, what its changed weights were, and what is merged into them."""

    layers: Mapping[str, tuple[Target, ...]]
    kept: dict[str, Tensor] = field(default_factory=dict)
    recipes: dict[str, Recipe] = field(default_factory=dict)
    in_use: bool = False


class Merger:
    """Keeps account of what is merged into the networks it has seen; it does not keep the networks."""

    def __init__(self) -> None:
        self._states: WeakKeyDictionary[Any, _State] = WeakKeyDictionary()
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """Bytes of what is kept. Any thread may ask."""
        with self._lock:
            states = list(self._states.values())
        return sum(tensor.nbytes for state in states for tensor in list(state.kept.values()))

    @contextmanager
    def merged(self, parts: Parts, loras: Sequence[tuple[Lora, LoraFile]]) -> Iterator[Merged]:
        """While it is open, `parts` are the base model with just these LoRAs.

        Leaving moves no weight: a cancelled run is left on any thread and must be left at once. The next entry does,
        from whatever is merged to what it wants. Raises LoraError, with all weights as the base has them.
        """
        states = {name: self._state(name, network) for name, network in parts.items()}
        recipes, merged = _plan({name: state.layers for name, state in states.items()}, loras)
        files = {file.hash: file for _, file in loras}
        if any(state.in_use for state in states.values()):
            raise RuntimeError("these networks are in use")
        try:
            for name, network in parts.items():
                _move(network, states[name], recipes.get(name, {}), files)
        except BaseException:
            for name, network in parts.items():
                _move(network, states[name], {}, files)
            raise
        for state in states.values():
            state.in_use = True
        try:
            yield merged
        finally:
            for state in states.values():
                state.in_use = False

    def _state(self, name: str, network: Any) -> _State:
        if network not in self._states:
            state = _State(layers(name, network))
            with self._lock:
                self._states[network] = state
        return self._states[network]


def _plan(
    known: Mapping[str, Mapping[str, tuple[Target, ...]]], loras: Sequence[tuple[Lora, LoraFile]]
) -> tuple[dict[str, dict[str, Recipe]], Merged]:
    """For each part, whose layers are `known`, the recipes of the parameters that change.

    Raises LoraError for a LoRA that matches nothing.
    """
    recipes: dict[str, dict[str, Recipe]] = {}
    reports, text_state = [], []
    for lora, file in loras:
        matched: dict[str, int] = {}
        unmatched = list(file.unknown)
        for place in file.factors:
            targets = known.get(place.part, {}).get(place.layer)
            if targets is None:
                unmatched.append(str(place))
                continue
            matched[place.part] = matched.get(place.part, 0) + 1
            weight = lora.weight if place.part == "unet" else lora.for_text
            own = recipes.setdefault(place.part, {})
            for target in targets if weight else ():
                name = f"{target.path}.{place.parameter}"
                own[name] = (*own.get(name, ()), Addition(file.hash, weight, place, target.rows))
        if not matched:
            raise LoraError(f"LoRA: {file.name} fits nothing in this model; it is made for another one.")
        if matched.keys() - {"unet"} and lora.for_text:
            text_state.append((file.hash, lora.for_text))
        matched = {name: matched[name] for name in known if name in matched}
        reports.append(LoraReport(file.name, file.hash, matched, tuple(unmatched)))
    return recipes, Merged(tuple(reports), tuple(text_state))


@torch.no_grad()
def _move(network: Any, state: _State, wanted: Mapping[str, Recipe], files: Mapping[str, LoraFile]) -> None:
    """Bring a network's parameters from what is merged into them to what is `wanted`."""
    changing = [name for name in {**state.recipes, **wanted} if state.recipes.get(name) != wanted.get(name)]
    if changing and hasattr(network, "attn_processors"):
        forget_prompts(network)
    for name in changing:
        parameter = _parameter(network, name, wanted)
        before = state.kept[name] if name in state.kept else parameter.detach().to("cpu", copy=True)
        if name in wanted:
            changed = _changed(before.to(parameter.device), wanted[name], files)
            state.kept[name], state.recipes[name] = before, wanted[name]
            parameter.copy_(changed)
        else:
            parameter.copy_(before)
            del state.kept[name], state.recipes[name]


def _parameter(network: Any, name: str, wanted: Mapping[str, Recipe]) -> Tensor:
    path, _, own = name.rpartition(".")
    parameter: Tensor | None = getattr(network.get_submodule(path), own)
    if parameter is None:
        raise LoraError(f"LoRA: it changes {wanted[name][0].place}, which has no {own} in this model.")
    return parameter


def _changed(before: Tensor, recipe: Recipe, files: Mapping[str, LoraFile]) -> Tensor:
    """before + Σ weightᵢ · deltaᵢ, in float32, then in the weight's own precision."""
    base = before.float()
    total = base.clone()
    for hash, weight, place, rows in recipe:
        file = files[hash]
        factors: Factors = file.factors[place]
        try:
            total.add_(factors.delta(base, rows), alpha=weight)
            if (
                not total.to(before.dtype).sum(dtype=torch.float32).isfinite()
            ):  # a third of the time of isfinite().all()
                raise Misfit("makes the model's numbers too large")
        except Misfit as error:
            raise LoraError(f"LoRA: {file.name} cannot be used: {place} {error}.") from None
    return total
