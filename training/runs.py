"""A stage of training: steps with a progress bar, kept every two minutes, gone on with where they were left.

What is random in step k is drawn from k, so an interrupted run ends with the very weights of one that was not.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from core.errors import DarkroomError

SAVE_SECONDS = 120
WARM_UP = 100  # steps
FEW = 8  # channels
HALVES = torch.cuda.is_available() or bool(torch.cpu.get_capabilities().get("avx512_bf16"))
"""Whether this machine multiplies bfloat16 faster than float32; elsewhere it is many times slower."""


@dataclass(frozen=True)
class Plan:
    """How long and how fast a stage learns. `ema` is the decay of the averaged weights, which are what is kept.

    `muon`: matrices and convolutions go in orthogonal steps (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon),
    all else as AdamW has it.
    """

    name: str
    steps: int
    batch: int
    learning_rate: float
    ema: float = 0.998
    weight_decay: float = 0.01
    muon: bool = False

    def rate(self, step: int) -> float:
        """Warm-up, then half a cosine down to 2 %."""
        share = min(1.0, (step + 1) / max(1, min(WARM_UP, self.steps // 10)))
        falling = 0.02 + 0.98 * (1 + math.cos(math.pi * step / self.steps)) / 2
        return self.learning_rate * share * falling


class Clock:
    """The minutes that a command may take; None: as many as it needs."""

    def __init__(self, minutes: float | None) -> None:
        if minutes is not None and not minutes > 0:
            raise DarkroomError(f"--minutes: {minutes:g} is not allowed; use a number above 0.")
        self._end = math.inf if minutes is None else time.monotonic() + 60 * minutes

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self._end


class Interrupted(DarkroomError):
    """The minutes are over; the same command goes on from here."""


@dataclass
class Stage:
    """What is trained: modules by name, and the loss of a step. `facts` is what else the outcome depends on."""

    plan: Plan
    modules: dict[str, nn.Module]
    loss: Callable[[int], Tensor]
    facts: dict[str, Any]

    def train(self, folder: Path, clock: Clock) -> None:
        """Train to the end; then the modules hold the averaged weights.

        Raises Interrupted when the minutes are over, DarkroomError if the folder's checkpoint is of another recipe.
        """
        file = folder / f"{self.plan.name}.pt"
        state = _State(self)
        done = state.load(file, self._recipe()) if file.exists() else 0
        saved = time.monotonic()
        bar = tqdm(range(done, self.plan.steps), self.plan.name, self.plan.steps, initial=done)
        for step in bar:
            if clock.is_over:
                state.save(file, step, self._recipe())
                raise Interrupted(
                    f"{self.plan.name}: stopped at step {step} of {self.plan.steps}; run it again to go on."
                )
            bar.set_postfix(loss=f"{state.step(step):.4f}", refresh=False)
            if time.monotonic() - saved > SAVE_SECONDS:
                state.save(file, step + 1, self._recipe())
                saved = time.monotonic()
        if done < self.plan.steps:
            state.save(file, self.plan.steps, self._recipe())
        state.use_averages()

    def _recipe(self) -> str:
        return json.dumps({"plan": asdict(self.plan)} | self.facts, sort_keys=True)


class _State:
    """Weights, their averages and the optimizer."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._lay_out(torch.channels_last)  # a third faster, on CPUs too
        self._weights = [p for m in stage.modules.values() for p in m.parameters() if p.requires_grad]
        self._averages = [p.detach().clone() for p in self._weights]
        matrices = _matrices(stage.modules) if stage.plan.muon else []
        self._flat = [(weight, _as_matrix(weight.detach())) for weight in matrices]
        self._optimizers = _optimizers(stage.plan, self._weights, matrices, [flat for _, flat in self._flat])

    def step(self, step: int) -> float:
        plan = self._stage.plan
        for group in (group for optimizer in self._optimizers for group in optimizer.param_groups):
            group["lr"] = plan.rate(step)
        with torch.autocast(self._weights[0].device.type, torch.bfloat16, enabled=HALVES):
            loss = self._stage.loss(step)
        for weight in self._weights:
            weight.grad = None
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
        for weight, flat in self._flat:
            flat.grad = None if weight.grad is None else _as_matrix(weight.grad)
        for optimizer in self._optimizers:
            optimizer.step()
        decay = min(plan.ema, (step + 1) / (step + 10))
        torch._foreach_lerp_(self._averages, [p.detach() for p in self._weights], 1 - decay)
        return loss.item()

    def save(self, file: Path, step: int, recipe: str) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        states = [optimizer.state_dict() for optimizer in self._optimizers]
        parts = {"weights": self._weights, "averages": self._averages, "optimizers": states}
        torch.save(parts | {"step": step, "recipe": recipe}, file.with_suffix(".new"))
        os.replace(file.with_suffix(".new"), file)

    def load(self, file: Path, recipe: str) -> int:
        """The step to go on with."""
        try:
            kept = torch.load(file, weights_only=True)
        except Exception as error:
            raise DarkroomError(f"{file.name}: cannot be read; delete it to begin anew.") from error
        if kept["recipe"] != recipe:
            raise DarkroomError(f"{file.name}: it is of another recipe; delete it, or choose another --run folder.")
        with torch.no_grad():
            for mine, theirs in ((self._weights, kept["weights"]), (self._averages, kept["averages"])):
                torch._foreach_copy_(mine, theirs)
        for optimizer, state in zip(self._optimizers, kept["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        return int(kept["step"])

    def use_averages(self) -> None:
        with torch.no_grad():
            torch._foreach_copy_(self._weights, self._averages)
        self._lay_out(torch.contiguous_format)

    def _lay_out(self, memory_format: torch.memory_format) -> None:
        for module in self._stage.modules.values():
            module.to(memory_format=memory_format)


def _optimizers(
    plan: Plan, weights: list[nn.Parameter], matrices: list[nn.Parameter], flat: list[Tensor]
) -> list[torch.optim.Optimizer]:
    """`flat`: what `matrices` are as such."""
    orthogonal, decay = {id(weight) for weight in matrices}, plan.weight_decay
    rest = [weight for weight in weights if id(weight) not in orthogonal]
    adamw = torch.optim.AdamW(rest, plan.learning_rate, betas=(0.9, 0.99), weight_decay=decay, fused=True)
    if not flat:
        return [adamw]
    return [
        adamw,
        torch.optim.Muon(flat, plan.learning_rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
    ]


def _matrices(modules: dict[str, nn.Module]) -> list[nn.Parameter]:
    """Weights of layers, but for those that hardly any channels come into or go out of."""
    layers = [layer for module in modules.values() for layer in module.modules()]
    weights = [layer.weight for layer in layers if isinstance(layer, nn.Linear | nn.Conv2d)]
    return [weight for weight in weights if weight.requires_grad and min(weight.shape[:2]) > FEW]


def _as_matrix(weight: Tensor) -> Tensor:
    """(outputs, all else), in the same memory, where convolutions lie channels last."""
    return weight.movedim(1, -1).flatten(1) if weight.ndim == 4 else weight


def generator(*seeds: int) -> torch.Generator:
    """Of what step k draws: `generator(SALT, k)`."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0] >> 1))


def batch_of(step: int, count: int, size: int, salt: int) -> np.ndarray:
    """Which of `count` pictures step `step` sees: all of them once an epoch, in an order of that epoch's own."""
    first = step * size
    wanted = range(first, first + size)
    picked: list[int] = []
    for epoch, places in itertools.groupby(wanted, key=lambda place: place // count):
        order = np.random.default_rng([salt, epoch]).permutation(count)
        picked += [int(order[place % count]) for place in places]
    return np.array(picked)


def batches(count: int, size: int) -> Iterator[slice]:
    return (slice(first, min(count, first + size)) for first in range(0, count, size))
