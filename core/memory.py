"""What the machine has, and how a run will use it: `plan` is arithmetic alone and never touches a device."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import psutil

from core.errors import DarkroomError
from core.request import GenerationRequest

DType = Literal["float32", "bfloat16", "float16"]
BYTES: dict[DType, int] = {"float32": 4, "bfloat16": 2, "float16": 2}

# Estimated: how many tensors of its widest layer a part holds at its peak. Not yet measured on a GPU.
UNET_TENSORS = 12
VAE_TENSORS = 4
TILE = 512 * 512  # pixels that a tiled VAE decodes at a time


@dataclass(frozen=True)
class Machine:
    """`device` as torch names it; memory in bytes, of the GPU where there is one, within the container's limits."""

    device: str
    name: str
    threads: int
    memory_total: int
    memory_free: int
    dtype: DType = "float32"

    @property
    def is_gpu(self) -> bool:
        return self.device != "cpu"


@dataclass(frozen=True)
class Footprint:
    """Of a checkpoint: how many parameters it has, and the widths of its widest layers."""

    parameters: int
    unet_channels: int
    vae_channels: int


@dataclass(frozen=True)
class MemoryPlan:
    """How a run goes. `needs` is the estimated peak in bytes; `channels_last` is a layout that GPUs prefer."""

    dtype: DType
    channels_last: bool
    vae_tiling: bool
    needs: int

    def lighter(self) -> MemoryPlan | None:
        """The next plan to try when this one ran out of memory; None when there is none."""
        return None if self.vae_tiling else replace(self, vae_tiling=True)


def plan(machine: Machine, footprint: Footprint, request: GenerationRequest) -> MemoryPlan:
    """The fastest way to run a resolved `request` that should fit into the machine's free memory."""
    pixels = max(run.pixels for run in request.passes)
    item = BYTES[machine.dtype]
    weights = footprint.parameters * item
    most = max(run.pixels * run.pictures for run in request.passes)
    forward = request.predictions * most // 64 * footprint.unet_channels * UNET_TENSORS * item

    def peak(decoded: int) -> int:
        return weights + max(forward, decoded * footprint.vae_channels * VAE_TENSORS * item)

    tiling = machine.is_gpu and peak(pixels) > machine.memory_free and pixels > TILE
    return MemoryPlan(machine.dtype, machine.is_gpu, tiling, peak(min(pixels, TILE) if tiling else pixels))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or (a plain RuntimeError of torch's) in RAM."""
    return (
        type(error).__name__ == "OutOfMemoryError"
        or isinstance(error, MemoryError)
        or "DefaultCPUAllocator" in str(error)
    )


def inspect(device: str) -> Machine:
    """The machine as it is now. `device` is settings.device; "auto" takes a GPU if there is one.

    torch is only imported where a GPU may be: without an NVIDIA driver or Apple's chip the answer is known.
    Raises DarkroomError if a device was asked for by name and is not there.
    """
    if device == "cpu" or (device == "auto" and not _may_have_gpu()):
        return _cpu()
    import torch

    kind = device.partition(":")[0]
    if kind in ("auto", "cuda") and torch.cuda.is_available():
        return _cuda(device if kind == "cuda" else "cuda:0")
    if kind in ("auto", "mps") and torch.backends.mps.is_available():
        return replace(_cpu(), device="mps", name="Apple GPU")
    if kind == "auto":
        return _cpu()
    raise DarkroomError(f"Device: {device} is not on this machine; use auto or cpu.")


def _may_have_gpu() -> bool:
    nvidia = any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()
    return nvidia or platform.system() in ("Darwin", "Windows")


def _cuda(device: str) -> Machine:
    import torch

    chosen = torch.device(device)
    if (chosen.index or 0) >= torch.cuda.device_count():
        raise DarkroomError(f"Device: {device} is not on this machine; it has {torch.cuda.device_count()}.")
    free, total = torch.cuda.mem_get_info(chosen)
    dtype: DType = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return Machine(device, torch.cuda.get_device_name(chosen), _threads(), total, free, dtype)


def _cpu() -> Machine:
    memory = psutil.virtual_memory()
    total = min(memory.total, _container_memory())
    return Machine("cpu", "CPU", _threads(), total, min(memory.available, total))


def _threads() -> int:
    """Cores this process may use: its affinity, within a container's quota (cgroup 2)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, period = _cgroup("cpu.max", "max 100000").split()
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


def _container_memory() -> int:
    limit = _cgroup("memory.max", "max")
    return int(limit) if limit != "max" else 2**63


def _cgroup(name: str, default: str) -> str:
    try:
        return Path("/sys/fs/cgroup", name).read_text().strip()
    except OSError:
        return default
