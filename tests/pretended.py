"""A GPU that is not there: tensors that say they are on "cuda:0" and are computed on the CPU.

What would fail on a GPU because something stayed in RAM, or was left on the GPU where numpy wants it, fails here in
the same place; the pictures are those of a CPU. How fast it is, how much memory it takes and what its kernels round
to, only a real one can show.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("cuda:0")
MOVING = ("aten::_to_copy", "aten::copy_", "aten::_has_compatible_shallow_copy_type")  # may speak of both devices
CONVERTING = ("aten::to", "aten::cpu", "aten::type_as")  # made of the former
TO_PYTHON = ("aten::_local_scalar_dense", "aten::equal")
TOTAL = 24 << 30
CUDA: dict[str, Any] = {
    "_lazy_init": lambda: None,
    "is_available": lambda: True,
    "device_count": lambda: 1,
    "mem_get_info": lambda device: (TOTAL, TOTAL),
    "is_bf16_supported": lambda including_emulation=True: True,
    "get_device_name": lambda device: "Pretended",
    "memory_reserved": lambda device: 0,
    "reset_peak_memory_stats": lambda device: None,
    "max_memory_allocated": lambda device: 0,
    "Stream": lambda: _Stream(),
    "stream": lambda stream: stream,
    "current_stream": lambda: _Stream(),
}


class OnGpu(Tensor):
    """`held` is where its values are. To torch's own code it is a tensor without values (on "meta")."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnGpu:
        self: OnGpu = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device="meta",
        )
        self.held = held
        return self

    device = property(lambda self: GPU)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_meta = property(lambda self: False)  # type: ignore[assignment]

    def new_tensor(self, data: Any) -> Tensor:  # type: ignore[override]
        return torch.tensor(data, dtype=self.dtype, device=GPU)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What torch's own code would take from "meta"."""
        if func is Tensor.to and len(args) > 1 and isinstance(args[1], OnGpu):
            args = (args[0], GPU, args[1].dtype)
        elif func is Tensor.__getitem__ and isinstance(args[1], list):
            args = (args[0], torch.tensor(args[1], device=GPU))
        elif func is Tensor.__setitem__ and isinstance(args[2], int | float):
            return args[0][args[1]].fill_(args[2])
        return torch._C._disabled_torch_function_impl(func, types, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


@torch.inference_mode(False)
@torch.no_grad()
def _compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One of torch's operations, on the CPU; what comes out is where a GPU would have it."""
    name, leaves = func._schema.name, tree_leaves((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    on_gpu = [tensor for tensor in tensors if isinstance(tensor, OnGpu)]
    asked = [leaf for leaf in leaves if isinstance(leaf, torch.device)]
    if name in CONVERTING and (on_gpu or asked):
        with _Dispatch():
            return func.decompose(*args, **kwargs)
    strays = [tensor for tensor in tensors if not isinstance(tensor, OnGpu) and tensor.ndim]
    is_index = name.startswith("aten::index") and isinstance(args[0], OnGpu)  # an index may be in RAM
    if on_gpu and strays and name not in MOVING and not is_index:
        shape = tuple(strays[0].shape)
        raise RuntimeError(f"Expected all tensors to be on the same device: {name} was given one of {shape} in RAM")
    here = _held_of_gpu if on_gpu else _held
    held = func(*tree_map(here, args), **tree_map(here, kwargs))
    if func._schema.is_mutable:
        wrappers = {id(tensor.held): tensor for tensor in on_gpu}
        return tree_map(lambda leaf: wrappers.get(id(leaf), leaf), held)
    arrives = (
        asked[0].type == "cuda" or (bool(on_gpu) and asked[0].type == "meta")
        if asked
        else bool(on_gpu) and name not in TO_PYTHON
    )
    return tree_map(lambda leaf: OnGpu(leaf) if isinstance(leaf, Tensor) else leaf, held) if arrives else held


def _held(leaf: Any) -> Any:
    if isinstance(leaf, OnGpu):
        return leaf.held
    return torch.device("cpu") if isinstance(leaf, torch.device) and leaf.type == "cuda" else leaf


def _held_of_gpu(leaf: Any) -> Any:
    """Torch's own code says "meta" for where these are."""
    return torch.device("cpu") if isinstance(leaf, torch.device) else _held(leaf)


_data = torch._C.TensorBase.data


def _get_data(tensor: Tensor) -> Tensor:
    found: Tensor = tensor.detach() if isinstance(tensor, OnGpu) else _data.__get__(tensor)
    return found


def _set_data(tensor: Tensor, value: Tensor) -> None:
    """Of two kinds of tensor, each becomes the other."""
    if isinstance(tensor, OnGpu) or isinstance(value, OnGpu):
        is_parameter = isinstance(tensor, torch.nn.Parameter)
        other = torch.nn.Parameter(value, tensor.requires_grad) if is_parameter else value.detach()
        torch.utils.swap_tensors(tensor, other)
    else:
        _data.__set__(tensor, value)


class _Stream(nullcontext[None]):
    """Work is done at once."""

    def synchronize(self) -> None: ...


@contextmanager
def gpu() -> Iterator[None]:
    """As long as it lasts, this thread has a GPU of 24 GB."""
    torch._C._set_only_lift_cpu_tensors(True)  # so that new tensors are seen on their way to a device
    torch.__future__.set_swap_module_params_on_conversion(True)  # so that parameters become the others' kind
    try:
        with ExitStack() as patches:
            for name, instead in CUDA.items():
                patches.enter_context(mock.patch.object(torch.cuda, name, instead))
            for name in ("empty_cache", "empty_host_cache"):
                patches.enter_context(mock.patch.object(torch.accelerator, name, return_value=None))
            patches.enter_context(mock.patch.object(Tensor, "data", property(_get_data, _set_data), create=True))
            patches.enter_context(mock.patch.object(Tensor, "pin_memory", lambda tensor: tensor))
            patches.enter_context(_Dispatch())
            yield
    finally:
        torch._C._set_only_lift_cpu_tensors(False)
        torch.__future__.set_swap_module_params_on_conversion(False)
