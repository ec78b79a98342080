"""The plan is arithmetic: the same machine, model and request give the same plan anywhere."""

from __future__ import annotations

import pytest

from core.errors import DarkroomError
from core.memory import BYTES, Footprint, Machine, inspect, is_out_of_memory, plan
from core.request import GenerationRequest

GB = 2**30
SD15 = Footprint(parameters=1_066_000_000, unet_channels=1280, vae_channels=512)
CPU = Machine("cpu", "CPU", threads=2, memory_total=8 * GB, memory_free=6 * GB)


def gpu(free: float) -> Machine:
    return Machine("cuda:0", "GPU", 8, 24 * GB, int(free * GB), "bfloat16")


def request(side: int, batch: int = 1) -> GenerationRequest:
    return GenerationRequest(
        width=side, height=side, batch_size=batch, checkpoint="x", sampler="Euler", guidance_scale=7, seed=1
    )


def test_weights_count_by_dtype() -> None:
    small = request(64)
    on_cpu, on_gpu = plan(CPU, SD15, small), plan(gpu(24), SD15, small)
    assert on_cpu.needs == pytest.approx(SD15.parameters * BYTES["float32"], rel=0.01)
    assert on_gpu.needs == pytest.approx(SD15.parameters * BYTES["bfloat16"], rel=0.01)
    assert (on_cpu.dtype, on_cpu.channels_last) == ("float32", False)
    assert (on_gpu.dtype, on_gpu.channels_last) == ("bfloat16", True)


def test_more_pixels_and_more_pictures_need_more() -> None:
    needs = [plan(gpu(24), SD15, r).needs for r in (request(512), request(1024), request(1024, batch=8))]
    assert needs == sorted(set(needs))


def test_the_vae_is_tiled_only_where_memory_asks_for_it() -> None:
    assert not plan(gpu(24), SD15, request(2048)).vae_tiling
    tight = plan(gpu(6), SD15, request(2048))
    assert tight.vae_tiling
    assert tight.needs < plan(gpu(24), SD15, request(2048)).needs
    assert not plan(CPU, SD15, request(2048)).vae_tiling


def test_there_is_one_lighter_plan() -> None:
    lighter = plan(gpu(24), SD15, request(512)).lighter()
    assert lighter is not None
    assert lighter.vae_tiling
    assert lighter.lighter() is None


def test_this_machine_has_memory_and_threads() -> None:
    machine = inspect("cpu")
    assert machine.threads >= 1
    assert 0 < machine.memory_free <= machine.memory_total


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(DarkroomError, match="Device: cuda:63 is not on this machine"):
        inspect("cuda:63")


def test_errors_of_memory_are_known_from_others() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
