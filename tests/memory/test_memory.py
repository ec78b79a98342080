"""The plan is arithmetic: the same machine, model and request give the same plan anywhere."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from bench.memory import CARDS, MODELS, card, table
from core.errors import DarkroomError, OutOfMemory
from core.memory.machine import BYTES, Machine, inspect
from core.memory.planning import (
    FLUX_VALUES,
    ROUNDED,
    ROUNDED_WITHOUT_OFFLOAD,
    VAE_VALUES,
    WAYS,
    Footprint,
    Work,
    is_out_of_memory,
    plan,
    plans,
)
from core.request.generation import GenerationRequest
from core.request.units import Lora
from core.sizes import GB
from tests.peaks import SD1, SD35, SDXL, flux_peak, transformer_peak, unet_peak, vae_peak

SD15, XL, SD35_MEDIUM = (model.footprint for model in MODELS)
CPU = Machine("cpu", "CPU", threads=2, memory_total=8 * GB, memory_free=6 * GB, ram_free=6 * GB)


def gpu(free: float) -> Machine:
    return Machine("cuda:0", "GPU", 8, 24 * GB, int(free * GB), "bfloat16", ram_free=32 * GB)


def request(side: int, batch: int = 1) -> GenerationRequest:
    return GenerationRequest(
        width=side, height=side, batch_size=batch, checkpoint="x", sampler="Euler", guidance_scale=7, seed=1
    )


def test_weights_count_by_dtype() -> None:
    small = request(64)
    on_cpu, on_gpu = plan(CPU, SD15, small), plan(gpu(24), SD15, small)
    parameters = sum(SD15.encoders) + SD15.denoiser + SD15.vae
    assert on_cpu.needs == pytest.approx(parameters * BYTES["float32"], rel=0.01)
    assert on_gpu.needs == pytest.approx(parameters * BYTES["bfloat16"], rel=0.01)
    assert (on_cpu.dtype, on_cpu.channels_last) == ("float32", False)
    assert (on_gpu.dtype, on_gpu.channels_last) == ("bfloat16", True)


def test_more_pixels_pictures_and_prompts_need_more() -> None:
    several = [request(512), request(1024), request(1024, batch=8)]
    needs = [plan(gpu(24), SD15, r).needs for r in [*several, several[-1].replace(prompt="a AND b AND c")]]
    assert needs == sorted(set(needs))


@pytest.mark.parametrize(("free", "way"), [(24, 0), (8, 1), (7, 2), (6, 3), (4, 5)])
def test_the_fastest_way_that_fits_is_taken(free: float, way: int) -> None:
    assert plan(gpu(free), XL, request(1024)).way == WAYS[way]


@pytest.mark.parametrize(("free", "way"), [(24, 0), (12, 3), (8, 4), (4, 5)])
def test_a_text_encoder_that_is_larger_than_all_else_goes_layer_by_layer_first(free: float, way: int) -> None:
    assert plan(gpu(free), SD35_MEDIUM, request(1024)).way == WAYS[way]


def test_each_way_needs_less_or_as_much_and_knows_the_next() -> None:
    chain = plans(gpu(24), XL, Work.of(request(1024)))
    needs = [each.needs for each in chain]
    assert needs == sorted(needs, reverse=True)
    exact = chain[:-1]
    assert [each.lighter for each in exact] == [*exact[1:], None]  # rounding is foretold, never a second try
    assert chain[-1].ram > chain[2].ram > chain[0].ram == 0


def test_nothing_is_moved_out_of_ram() -> None:
    assert [each.way for each in plans(CPU, XL, Work.of(request(1024)))] == [*WAYS[:2], ROUNDED_WITHOUT_OFFLOAD]


def test_weights_are_rounded_where_nothing_else_fits() -> None:
    flux = Footprint((123_060_480, 4_762_310_656), 11_901_408_320, 83_819_683, 3072, 128, FLUX_VALUES)
    for ram, way in ((40, WAYS[-1]), (30, ROUNDED)):  # GB
        assert plan(replace(gpu(20), ram_free=ram * GB), flux, request(1024)).way == way
    chosen = plan(replace(CPU, memory_free=8 * GB), XL, request(1024))
    assert chosen.way == ROUNDED_WITHOUT_OFFLOAD
    assert chosen.needs > 2 * XL.denoiser  # while it is read


def test_with_loras_nothing_is_rounded() -> None:
    asked = request(1024).replace(loras=[Lora(name="x")])
    with pytest.raises(OutOfMemory, match="without LoRAs it would fit, with weights rounded to 8 bits"):
        plan(replace(CPU, memory_free=8 * GB), XL, asked)


def test_what_loras_change_is_counted_in_ram() -> None:
    asked, changed = request(1024).replace(loras=[Lora(name="x")]), 10**9
    merging = replace(XL, merging=changed)
    large = replace(CPU, memory_free=60 * GB)
    assert plan(large, merging, asked).needs - plan(large, XL, asked).needs == 4 * changed
    card = gpu(20)
    assert plan(card, merging, asked).needs == plan(card, XL, asked).needs
    assert plan(card, merging, asked).ram - plan(card, XL, asked).ram == 2 * changed
    with pytest.raises(OutOfMemory, match=r"without LoRAs it would fit\."):
        plan(replace(card, ram_free=1 * GB), merging, asked)


def test_what_this_process_holds_is_there_to_be_used() -> None:
    full = replace(gpu(0.1), held=24 * GB)
    assert plan(full, XL, request(1024)).way == WAYS[0]


def test_weights_that_wait_in_ram_take_no_more_of_it() -> None:
    after = replace(gpu(5), ram_free=2 * GB, ram_held=8 * GB)
    assert plan(after, XL, request(1024)).way.leaving
    with pytest.raises(OutOfMemory):  # what is held of the GPU is no RAM
        plan(replace(gpu(0.1), held=5 * GB, ram_free=2 * GB), XL, request(1024))


def test_on_apples_gpus_nothing_is_rounded() -> None:
    apple = replace(CPU, device="mps")
    assert [each.way for each in plans(apple, XL, Work.of(request(1024)))] == list(WAYS[:2])
    with pytest.raises(OutOfMemory, match="no size of this model fits"):
        plan(replace(apple, memory_free=6 * GB), XL, request(1024))


def test_a_vae_that_float16_is_too_narrow_for_is_planned_in_float32() -> None:
    old = replace(gpu(24), dtype="float16")
    assert plan(old, XL, request(1024)).vae_dtype == "float32"
    assert plan(old, SD15, request(512)).vae_dtype == "float16"
    assert plan(gpu(24), XL, request(1024)).vae_dtype == "bfloat16"


def test_networks_count() -> None:
    with_net = replace(SD15, nets=(361_279_120,))
    assert plan(gpu(24), with_net, request(512)).needs > plan(gpu(24), SD15, request(512)).needs + 0.6 * GB


@pytest.mark.parametrize(
    ("machine", "asked", "message"),
    [
        (gpu(2), request(1024, batch=16), "16 × 1024 × 1024 needs about .* one picture at a time would fit"),
        (replace(CPU, memory_free=5 * GB, ram_free=5 * GB), request(4096), "4096 × 4096 .* 1536 × 1536 would fit"),
        (replace(CPU, memory_free=GB, ram_free=GB), request(512), "and 1 GB are free; no size of this model fits"),
    ],
)
def test_what_cannot_fit_is_refused_with_what_would(machine: Machine, asked: GenerationRequest, message: str) -> None:
    with pytest.raises(OutOfMemory, match=message):
        plan(machine, SD15, asked)


def test_without_room_in_ram_nothing_can_be_moved_out() -> None:
    with pytest.raises(OutOfMemory):
        plan(replace(gpu(4), ram_free=GB), XL, request(1024))


@pytest.mark.parametrize(
    ("counted", "config", "side", "footprint"),
    [(unet_peak, SD1, 32, SD15), (unet_peak, SDXL, 32, XL), (transformer_peak, SD35, 128, SD35_MEDIUM)],
)
def test_the_denoisers_figures_are_counted(counted, config, side, footprint) -> None:
    parameters, values = counted(config, batch=2, side=side)
    assert parameters == footprint.denoiser
    assert values / (2 * side**2 * footprint.width) == pytest.approx(footprint.values.value, rel=0.01)


def test_the_figure_of_flux_is_counted() -> None:
    parameters, values = flux_peak(batch=2, side=128)
    assert parameters == 11_901_408_320
    assert values / (2 * 128**2 * 3072) == pytest.approx(FLUX_VALUES.value, rel=0.01)


def test_the_text_encoders_are_counted() -> None:
    layers = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
    second = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "projection_dim": 1280}
    with torch.device("meta"):
        encoders = CLIPTextModel(CLIPTextConfig(**layers)), CLIPTextModelWithProjection(CLIPTextConfig(**second))
    assert tuple(encoder.num_parameters() for encoder in encoders) == XL.encoders == (*SD15.encoders, XL.encoders[1])


def test_the_text_encoders_of_stable_diffusion_3_are_counted() -> None:
    layers = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "projection_dim": 768}
    t5 = {"d_model": 4096, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "feed_forward_proj": "gated-gelu"}
    with torch.device("meta"):
        first = CLIPTextModelWithProjection(CLIPTextConfig(**layers))
        third = T5EncoderModel(T5Config(**t5))
    assert SD35_MEDIUM.encoders == (first.num_parameters(), XL.encoders[1], third.num_parameters())


def test_the_vaes_figure_is_counted() -> None:
    parameters, values = vae_peak(256)
    assert parameters == SD15.vae == XL.vae
    assert values / (256 * 256 * SD15.vae_width) == pytest.approx(VAE_VALUES.value, rel=0.01)
    sixteen = {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}
    assert vae_peak(64, **sixteen)[0] == SD35_MEDIUM.vae


def test_the_sum_is_near_what_was_published_for_an_a100() -> None:
    """diffusers' documentation: 2.6 GB for SD 1.5 at 512², 9.0 GB for SDXL at 1024², bfloat16 with SDPA."""
    assert plan(gpu(24), SD15, request(512)).needs == pytest.approx(2.6e9, rel=0.1)
    assert plan(gpu(24), XL, request(1024)).needs == pytest.approx(9.0e9, rel=0.1)


def test_the_table_has_every_card_and_what_no_card_can() -> None:
    assert [card(size).memory_total for size in CARDS] == [size * GB for size in CARDS]
    assert table().count("\n") == 1 + len(MODELS)


def test_this_machine_has_memory_and_threads() -> None:
    machine = inspect("cpu")
    assert machine.threads >= 1
    assert 0 < machine.memory_free <= machine.memory_total


def test_a_container_is_as_full_as_its_own_use_says(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"memory.max": f"{2**30}", "memory.current": f"{2**29}", "memory.stat": f"anon 1\ninactive_file {2**28}"}
    monkeypatch.setattr("core.memory.machine._cgroup", lambda name, default: told.get(name, default))
    machine = inspect("cpu")
    assert (machine.memory_total, machine.memory_free) == (2**30, 2**30 - 2**29 + 2**28)


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(DarkroomError, match="Device: cuda:63 is not on this machine"):
        inspect("cuda:63")


def test_errors_of_memory_are_known_from_others() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 8.7 GiB)"))
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
