"""What this machine has: its device, its cores, and how much memory is free."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import psutil

from core.errors import DarkroomError

DType = Literal["float32", "bfloat16", "float16"]
BYTES: dict[DType, int] = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Machine:
    """`device` as torch names it; memory in bytes, of the GPU where there is one, within the container's limits.

    `held` is what this process already has of it for models, free to be used anew. `ram_free` is of the RAM beside a
    GPU, and `ram_held` what a run's own models have of that.
    """

    device: str
    name: str
    threads: int
    memory_total: int
    memory_free: int
    dtype: DType = "float32"
    held: int = 0
    ram_free: int = 0
    ram_held: int = 0

    @property
    def is_gpu(self) -> bool:
        return self.device != "cpu"

    @property
    def has_memory_of_its_own(self) -> bool:
        """Whether the device's memory is another than the RAM, so that moving things out of it gives room."""
        return self.device.startswith("cuda")

    @property
    def room(self) -> int:
        """Bytes that a run may use."""
        return self.memory_free + self.held


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
    return replace(
        _cpu(),
        device=device,
        name=torch.cuda.get_device_name(chosen),
        memory_total=total,
        memory_free=free,
        dtype=dtype,
        held=torch.cuda.memory_reserved(chosen),
    )


def _cpu() -> Machine:
    memory = psutil.virtual_memory()
    limit, used = _container_memory()
    total, free = min(memory.total, limit), min(memory.available, max(0, limit - used))
    return Machine("cpu", "CPU", _threads(), total, free, ram_free=free)


def _threads() -> int:
    """Cores this process may use: its affinity, within a container's quota (cgroup 2)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, period = _cgroup("cpu.max", "max 100000").split()
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


def _container_memory() -> tuple[int, int]:
    """The limit of a container (cgroup 2), and what is in use of it, less the files that would make way."""
    limit = _cgroup("memory.max", "max")
    if limit == "max":
        return 2**63, 0
    counts = dict(line.split() for line in _cgroup("memory.stat", "").splitlines())
    return int(limit), int(_cgroup("memory.current", "0")) - int(counts.get("inactive_file", 0))


def _cgroup(name: str, default: str) -> str:
    try:
        return Path("/sys/fs/cgroup", name).read_text().strip()
    except OSError:
        return default


class PeakMeter:
    """The most memory this process held since it was made: on a GPU as torch counts it, else resident in RAM.

    RAM is measured where Linux tells it, less what was there at `base`; elsewhere `read` returns None.
    """

    def __init__(self, device: str, base: int) -> None:
        self._device, self._base = device, base
        if device.startswith("cuda"):
            import torch

            torch.cuda.reset_peak_memory_stats(device)
            return
        try:
            Path("/proc/self/clear_refs").write_text("5")
            self._counts = True
        except OSError:
            self._counts = False

    def read(self) -> int | None:
        if self._device.startswith("cuda"):
            import torch

            return torch.cuda.max_memory_allocated(self._device)
        if not self._counts or self._device != "cpu":
            return None
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 - self._base


def attention_kernel(device: str) -> str:
    """What computes attention: torch chooses among these for each call."""
    name = f"scaled_dot_product_attention of torch {version('torch')}"
    if not device.startswith("cuda"):
        return name
    from torch.backends import cuda

    kernels: dict[str, Any] = {
        "flash": cuda.flash_sdp_enabled,
        "cuDNN": cuda.cudnn_sdp_enabled,
        "memory-efficient": cuda.mem_efficient_sdp_enabled,
    }
    return f"{name}: {', '.join(kernel for kernel, is_on in kernels.items() if is_on())}"


def resident() -> int:
    """Bytes of RAM that this process holds."""
    size: int = psutil.Process().memory_info().rss
    return size
