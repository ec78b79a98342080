"""What a LoRA adds to a weight, exactly: the formulas of every format, each a row of FORMATS.

A weight of any shape is taken as a matrix: its first dimension, and all others together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from core.lora.names import Place
from core.lora.transformers import Rows
from core.memory import is_out_of_memory

Tensors = Mapping[str, Tensor]
SCALE_LIMIT = 1000.0  # of alpha / rank, which trainers keep at or below 1


class Misfit(ValueError):
    """Factors that do not fit together or the weight; its message goes on after "the LoRA's" layer."""


@dataclass(frozen=True)
class Format:
    """`needs`: the factors of which all must be there; `rank`: from them, None where alpha has no meaning."""

    needs: frozenset[str]
    may_have: frozenset[str]
    build: Callable[[Tensors], Tensor]
    rank: Callable[[Tensors], int | None]


@dataclass(frozen=True, eq=False)
class Factors:
    """One layer's part of a LoRA, as its file has it. `alpha` None means that of the rank."""

    tensors: Tensors
    alpha: float | None = None

    @property
    def format(self) -> Format:
        """Raises Misfit if something is missing."""
        own = self.tensors.keys() - NORMS
        for row in FORMATS:
            if row.needs <= own <= row.needs | row.may_have:
                return row
        raise Misfit(f"has only {', '.join(sorted(own)) or 'an alpha'}, which make no difference of any format")

    @property
    def is_dora(self) -> bool:
        return not NORMS.isdisjoint(self.tensors)

    @property
    def rank(self) -> int | None:
        return self.format.rank(self.tensors)

    @property
    def scale(self) -> float:
        """alpha / rank. Raises Misfit where that is beyond all sense."""
        rank = self.format.rank(self.tensors)
        if rank is None or self.alpha is None:
            return 1.0
        scale = self.alpha / max(rank, 1)
        if not math.isfinite(scale) or abs(scale) > SCALE_LIMIT:
            raise Misfit(f"has an alpha of {self.alpha:g}")
        return scale

    def delta(self, weight: Tensor, rows: Rows | None = None) -> Tensor:
        """What is added to `weight` (float32) at weight 1, in its shape; with `rows`, these of it alone.

        Raises Misfit if it does not fit.
        """
        if rows and self.is_dora:
            raise Misfit("is a DoRA of layers that are apart in this model")
        tensors = {name: tensor.to(weight.device, torch.float32) for name, tensor in self.tensors.items()}
        build, scale = self.format.build, self.scale
        try:
            added = build(tensors)
        except (RuntimeError, IndexError) as error:
            if is_out_of_memory(error):
                raise
            raise Misfit("has factors that do not fit each other") from None
        if rows and len(added) == rows.of:
            added = added[rows.first : rows.first + len(weight)].clone()
        if added.shape != _matrix(weight).shape:
            theirs, ours = (" × ".join(map(str, shape)) for shape in (added.shape, _matrix(weight).shape))
            raise Misfit(f"is made for {theirs} values, where the model has {ours}")
        added = added.reshape(weight.shape).mul_(scale)
        return _decomposed(tensors, weight, added) if self.is_dora else added


def _matrix(tensor: Tensor) -> Tensor:
    return tensor.reshape(len(tensor), -1)


def _lora(f: Tensors) -> Tensor:
    """up · down; with a core `mid` (LoCon's Tucker form) Σ upᵢₘ · midₘₙ · downₙⱼ."""
    if "mid" not in f:
        return _matrix(f["up"]) @ _matrix(f["down"])
    return _matrix(torch.einsum("mn...,im,nj->ij...", f["mid"], _matrix(f["up"]), _matrix(f["down"])))


def _loha(f: Tensors) -> Tensor:
    """(w1a · w1b) ⊙ (w2a · w2b), Hyeon-Woo et al. 2021, https://arxiv.org/abs/2108.06098."""
    return _pair(f, "1") * _pair(f, "2")


def _pair(f: Tensors, which: str) -> Tensor:
    a, b, core = f[f"hada_w{which}_a"], f[f"hada_w{which}_b"], f.get(f"hada_t{which}")
    return a @ b if core is None else _matrix(torch.einsum("mn...,mi,nj->ij...", core, a, b))


def _lokr(f: Tensors) -> Tensor:
    """w1 ⊗ w2, each whole or the product of two, Yeh et al. 2023, https://arxiv.org/abs/2309.14859."""
    first = f["lokr_w1"] if "lokr_w1" in f else f["lokr_w1_a"] @ f["lokr_w1_b"]
    if "lokr_t2" in f:
        second = torch.einsum("mn...,mi,nj->ij...", f["lokr_t2"], f["lokr_w2_a"], f["lokr_w2_b"])
    else:
        second = f["lokr_w2"] if "lokr_w2" in f else f["lokr_w2_a"] @ _matrix(f["lokr_w2_b"])
    return torch.kron(first, _matrix(second))


def _lokr_rank(f: Tensors) -> int | None:
    low = f.get("lokr_w1_b", f.get("lokr_w2_b"))
    return None if low is None else len(low)


def _decomposed(f: Tensors, weight: Tensor, added: Tensor) -> Tensor:
    """DoRA: the changed weight, each of its rows (or columns) brought to a trained norm, less the weight.

    Liu et al. 2024, https://arxiv.org/abs/2402.09353. peft and newer LyCORIS take the norm of each output, kohya and
    older LyCORIS of each input; the shape tells which.
    """
    changed = weight + added
    norms = f["magnitude"].flatten() if "magnitude" in f else f["dora_scale"]
    inputs = norms.dim() > 1 and norms.shape[0] == 1 and norms.shape[1] == weight.shape[1] != 1
    kept = 1 if inputs else 0
    if norms.numel() != weight.shape[kept]:
        raise Misfit(f"has {norms.numel()} norms, where the model has {weight.shape[kept]}")
    others = [dim for dim in range(weight.dim()) if dim != kept]
    present = torch.linalg.vector_norm(changed, dim=others, keepdim=True)
    decomposed: Tensor = changed * (norms.reshape(present.shape) / present.clamp_min(1e-12)) - weight
    return decomposed


NORMS = frozenset({"dora_scale", "magnitude"})


def _lokr_row(first: set[str], second: set[str]) -> Format:
    return Format(frozenset(first | second), frozenset(), _lokr, _lokr_rank)


FORMATS = (
    Format(frozenset({"up", "down"}), frozenset({"mid"}), _lora, lambda f: len(f["down"])),
    Format(
        frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}),
        frozenset({"hada_t1", "hada_t2"}),
        _loha,
        lambda f: len(f["hada_w1_b"]),
    ),
    *(
        _lokr_row(first, second)
        for first in ({"lokr_w1"}, {"lokr_w1_a", "lokr_w1_b"})
        for second in ({"lokr_w2"}, {"lokr_w2_a", "lokr_w2_b"}, {"lokr_w2_a", "lokr_w2_b", "lokr_t2"})
    ),
    Format(frozenset({"diff"}), frozenset(), lambda f: _matrix(f["diff"]), lambda f: None),
)


@dataclass(frozen=True, eq=False)
class LoraFile:
    """A LoRA in memory. `hash` is its file's SHA-256, short; `unknown` the keys that no format explains."""

    name: str
    hash: str
    factors: Mapping[Place, Factors]
    unknown: tuple[str, ...]
