"""How a run will use the memory: `plan` is arithmetic alone and never touches a device.

Weights are counted from the files' headers. What the work needs beside them follows from FIGURES, each with its
source; the ways to do with less stand in WAYS.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from core.errors import OutOfMemory
from core.families import pixels_a_latent
from core.memory.machine import BYTES, DType, Machine
from core.request import GenerationRequest
from core.sizes import GB, in_words

READ_AS: DType = "bfloat16"  # weights that are rounded to 8 bits next
TILE = 512  # pixels: the side of the tiles in which a VAE decodes
SIDES = (2048, 1536, 1024, 768, 512, 384, 256, 128, 64)  # that are named when a larger one does not fit


@dataclass(frozen=True)
class Figure:
    """A number of the arithmetic, and where it comes from."""

    value: float
    what: str
    source: str = "estimated"


COUNTED = "counted: live tensors of the published shapes on the meta device, tests/memory/test_memory.py"
UNET_VALUES = Figure(26, "values a latent, for each channel of a U-Net with attention at full resolution", COUNTED)
UNET_VALUES_BELOW = Figure(15.75, "the same for a U-Net without, such as XL's", COUNTED)
TRANSFORMER_VALUES = Figure(3.56, "the same for a transformer of Stable Diffusion 3, for each of its width", COUNTED)
FLUX_VALUES = Figure(4.23, "the same for FLUX's", COUNTED)
VAE_VALUES = Figure(6, "values a pixel, for each channel of a VAE that decodes", COUNTED)
NET_VALUES = Figure(6, "values a latent and channel that a ControlNet hands over")
STREAMED = {
    "unet": Figure(0.12, "GB of what predicts that are on the GPU while it is streamed: two of its largest layers"),
    "text": Figure(0.35, "GB of a text encoder, likewise: T5's words and a layer"),
}
RESERVE = Figure(0.4, "GB left free for workspaces and fragmentation")
FIGURES = (
    *(UNET_VALUES, UNET_VALUES_BELOW, TRANSFORMER_VALUES, FLUX_VALUES, VAE_VALUES, NET_VALUES),
    *(*STREAMED.values(), RESERVE),
)


@dataclass(frozen=True)
class Way:
    """How a run does with less memory.

    `leaving` are the parts that are on the device only while they work, `streams` those that are so layer by layer.
    `rounds`: what predicts keeps its weights in 8 bits, which changes pictures a little.
    """

    words: str
    tiles: bool = True
    leaving: frozenset[str] = frozenset()
    streams: frozenset[str] = frozenset()
    slower: str = ""
    rounds: bool = False

    def leaves(self, part: str) -> bool:
        """Whether a part, by the name of its folder, waits outside the device."""
        return STAGES.get(part) in self.leaving

    def rounds_part(self, part: str) -> bool:
        return self.rounds and part in DENOISERS


DENOISERS = ("unet", "transformer")
STAGES = {
    **dict.fromkeys(("text_encoder", "text_encoder_2", "text_encoder_3"), "text"),
    **dict.fromkeys((*DENOISERS, "controlnet"), "unet"),
    "vae": "vae",
}
"""What `leaving` calls a part."""
EVERYTHING = frozenset({"text", "unet", "vae"})
WAYS = (
    Way("everything stays in memory", tiles=False),
    Way("the VAE decodes in tiles"),
    Way("the VAE decodes in tiles and the text encoders leave the GPU after encoding", leaving=frozenset({"text"})),
    Way("each part is on the GPU only while it works", leaving=EVERYTHING, slower="about 40 % slower"),
    Way(
        "each part is on the GPU only while it works, the text encoders layer by layer",
        leaving=EVERYTHING,
        streams=frozenset({"text"}),
        slower="about 40 % slower",
    ),
    Way(
        "the model goes through the GPU layer by layer",
        leaving=EVERYTHING,
        streams=frozenset({"text", "unet"}),
        slower="up to 4 × slower",
    ),
)
"""From the fastest to the one that needs least; all draw the same pictures. How much slower is published: model
offload of SDXL at batch 4 takes 16.1 instead of 11.4 s (https://huggingface.co/blog/simple_sdxl_optimizations),
leaf-level group offload of FLUX 1.86 instead of 0.49 s (diffusers' benchmarks).
"""
WITHOUT_OFFLOAD: tuple[Way, ...] = WAYS[:2]  # where the device's memory is the RAM
ROUNDED = replace(
    WAYS[-1],
    words="the model, its weights rounded to 8 bits, goes through the GPU layer by layer",
    slower="up to 4 × slower, pictures differ a little",
    rounds=True,
)
ROUNDED_WITHOUT_OFFLOAD = replace(
    WAYS[1],
    words="the VAE decodes in tiles and the model's weights are rounded to 8 bits",
    slower="slower, pictures differ a little",
    rounds=True,
)
"""Last: for when no other way fits. Not with LoRAs: most of what these add is less than the rounding takes. Not on
Apple's GPUs: torch has no such numbers there.
"""


@dataclass(frozen=True)
class Footprint:
    """A model's parameters by part, counted from its files' headers, and the widths that its work goes by.

    `encoders` of each text encoder, `denoiser` of the U-Net or transformer, `nets` of each ControlNet that joins in,
    `refiner` of a refiner's U-Net. Widths are the channels at full resolution, `values` what the denoiser holds for
    each of them. `wide_vae`: float16 is too narrow for this VAE. `merging`: how many numbers LoRAs change; what these
    were is kept in RAM.
    """

    encoders: tuple[int, ...] = ()
    denoiser: int = 0
    vae: int = 0
    width: int = 0
    vae_width: int = 0
    values: Figure = UNET_VALUES
    pixels_a_latent: int = 64
    wide_vae: bool = False
    nets: tuple[int, ...] = ()
    refiner: int = 0
    merging: int = 0

    @classmethod
    def of(cls, denoiser: Any, vae: Any, parameters: dict[str, int], wide_vae: bool) -> Footprint:
        """From the configs of U-Net or transformer and VAE, and the parameters of each part."""
        width, values = _density(denoiser)
        return cls(
            encoders=tuple(count for name, count in parameters.items() if name.startswith("text_encoder")),
            denoiser=parameters.get("unet") or parameters["transformer"],
            vae=parameters.get("vae", 0),
            width=width,
            vae_width=vae["block_out_channels"][0],
            values=values,
            pixels_a_latent=pixels_a_latent(vae) ** 2,
            wide_vae=wide_vae,
        )

    def with_refiner(self, other: Footprint) -> Footprint:
        """Of a run whose last steps the model with the footprint `other` draws."""
        encoders, width = (*self.encoders, *other.encoders), max(self.width, other.width)
        return replace(self, encoders=encoders, refiner=other.denoiser, width=width)


def _density(denoiser: Any) -> tuple[int, Figure]:
    """The width of a U-Net or transformer, from its config, and what it holds for each latent and that width."""
    if "block_out_channels" not in denoiser:
        width = denoiser["num_attention_heads"] * denoiser["attention_head_dim"]
        return width, FLUX_VALUES if "guidance_embeds" in denoiser else TRANSFORMER_VALUES
    attends = denoiser["down_block_types"][0].startswith("Cross")
    return denoiser["block_out_channels"][0], UNET_VALUES if attends else UNET_VALUES_BELOW


@dataclass(frozen=True)
class Work:
    """What a run does at once: the most `pixels` of one picture, `pictures` of these, `predictions` of each; whether
    it `merges` LoRAs.
    """

    pixels: int
    pictures: int
    predictions: int
    merges: bool = False

    @classmethod
    def of(cls, request: GenerationRequest) -> Work:
        """Of a resolved request: its heaviest pass."""
        heaviest = max(request.passes, key=lambda run: run.pixels * run.pictures)
        largest = max(run.pixels for run in request.passes)
        pictures = -(-heaviest.pixels * heaviest.pictures // largest)
        return cls(largest, pictures, request.predictions, bool(request.loras))


@dataclass(frozen=True)
class MemoryPlan:
    """How a run goes. `needs` is the peak of the device's memory in bytes, `ram` that of the RAM beside a GPU's;
    `channels_last` is a layout that GPUs prefer; `lighter` the next plan with the same picture, for when this one ran
    out of memory.
    """

    way: Way
    dtype: DType
    vae_dtype: DType
    channels_last: bool
    needs: int
    ram: int
    lighter: MemoryPlan | None = field(default=None, repr=False)

    @property
    def precision(self) -> str:
        """Of what predicts."""
        return f"{self.dtype}, weights in 8 bits" if self.way.rounds else self.dtype

    def fits(self, machine: Machine) -> bool:
        return self.needs + RESERVE.value * GB <= machine.room and self.ram <= machine.ram_free + machine.ram_held

    def foretold(self, machine: Machine) -> str:
        """What the run will need, and what is done where that is more than there is."""
        needs = f"Needs about {in_words(self.needs)}, {in_words(machine.room)} free"
        if self.way == WAYS[0]:
            return needs
        return f"{needs}: {self.way.words}" + (f"; {self.way.slower}" if self.way.slower else "")


@dataclass(frozen=True)
class RunMemory:
    """How a run went: what was foretold, and the peak that was measured, where it can be. In RAM, the first run of a
    process measures what libraries take for good, too.
    """

    checkpoint: str
    size: tuple[int, int]
    plan: MemoryPlan
    measured: int | None
    with_libraries: bool


def plan(machine: Machine, footprint: Footprint, request: GenerationRequest) -> MemoryPlan:
    """The fastest way to run a resolved `request` that fits. Raises OutOfMemory, saying what would, if none does."""
    work = Work.of(request)
    chosen = next(_fitting(machine, footprint, work), None)
    if chosen:
        return chosen
    least = plans(machine, footprint, work)[-1]
    width, height = request.result_size
    asked = f"{work.pictures} × {width} × {height}" if work.pictures > 1 else f"{width} × {height}"
    raise OutOfMemory(
        f"{asked} needs about {in_words(least.needs)} of memory at least, and {in_words(machine.room)} are free; "
        f"{_what_fits(machine, footprint, work)}."
    )


def plans(machine: Machine, footprint: Footprint, work: Work) -> list[MemoryPlan]:
    """Every way to do it, from the fastest to the lightest; each knows the next."""
    ways = (*WAYS, ROUNDED) if machine.has_memory_of_its_own else WITHOUT_OFFLOAD
    if machine.device == "cpu":
        ways += (ROUNDED_WITHOUT_OFFLOAD,)
    result: list[MemoryPlan] = []
    vae_dtype: DType = "float32" if footprint.wide_vae and machine.dtype == "float16" else machine.dtype
    for way in reversed([way for way in ways if not (way.rounds and work.merges)]):
        lighter = result[0] if result and result[0].way.rounds == way.rounds else None
        own = MemoryPlan(way, machine.dtype, vae_dtype, machine.is_gpu, 0, 0, lighter)
        weights, read = _weights(footprint, own), _reading(footprint, own)
        needs, ram = _peak(footprint, work, own, weights), sum(weights[name] for name in way.leaving)
        if way.leaving:
            ram = max(ram, read)
        else:
            needs = max(needs, read)
        kept = min(footprint.merging, footprint.denoiser + sum(footprint.encoders)) * BYTES[own.dtype]
        if machine.has_memory_of_its_own:
            ram += kept
        else:
            needs += kept
        result.insert(0, replace(own, needs=needs, ram=ram))
    return result


def _fitting(machine: Machine, footprint: Footprint, work: Work) -> Iterator[MemoryPlan]:
    return (each for each in plans(machine, footprint, work) if each.fits(machine))


def _weights(footprint: Footprint, own: MemoryPlan) -> dict[str, int]:
    return {
        "text": sum(footprint.encoders) * BYTES[own.dtype],
        "unet": sum(_predicting(footprint, own)),
        "vae": footprint.vae * BYTES[own.vae_dtype],
    }


def _predicting(footprint: Footprint, own: MemoryPlan) -> tuple[int, int]:
    """Bytes of the model that predicts with its ControlNets, and of a refiner."""
    item = 1 if own.way.rounds else BYTES[own.dtype]
    return footprint.denoiser * item + sum(footprint.nets) * BYTES[own.dtype], footprint.refiner * item


def _reading(footprint: Footprint, own: MemoryPlan) -> int:
    """Bytes at most while weights are read that are rounded afterwards: the largest part comes first."""
    if not own.way.rounds:
        return 0
    rest = sum(_weights(footprint, own).values())
    return max(footprint.denoiser * BYTES[READ_AS], rest + footprint.refiner * (BYTES[READ_AS] - 1))


def _peak(footprint: Footprint, work: Work, own: MemoryPlan, weights: dict[str, int]) -> int:
    """Bytes of what stays, and of the stage that needs most: encoding, denoising or decoding."""
    way = own.way
    passing = {name: weights[name] for name in way.leaving}
    if "text" in passing:  # one encoder at a time
        passing["text"] = max(footprint.encoders, default=0) * BYTES[own.dtype]
    if "unet" in passing:  # one model at a time
        passing["unet"] = max(_predicting(footprint, own))
    for name in way.streams:
        passing[name] = min(passing[name], int(STREAMED[name].value * GB))
    decoded = min(work.pixels, TILE**2) if way.tiles else work.pixels
    stages = {
        "text": 0,
        "unet": _forward(footprint, work) * BYTES[own.dtype],
        "vae": decoded * footprint.vae_width * int(VAE_VALUES.value) * BYTES[own.vae_dtype],
    }
    stays = sum(size for name, size in weights.items() if name not in way.leaving)
    return stays + max(passing.get(name, 0) + size for name, size in stages.items())


def _forward(footprint: Footprint, work: Work) -> int:
    """Values that one prediction holds at its peak."""
    latents = work.predictions * work.pictures * work.pixels // footprint.pixels_a_latent
    return int(latents * footprint.width * (footprint.values.value + NET_VALUES.value * len(footprint.nets)))


def _what_fits(machine: Machine, footprint: Footprint, work: Work) -> str:
    without = _fitting(machine, replace(footprint, merging=0), replace(work, merges=False))
    if work.merges and (alone := next(without, None)):
        return "without LoRAs it would fit" + (", with weights rounded to 8 bits" if alone.way.rounds else "")
    if work.pictures > 1 and any(_fitting(machine, footprint, replace(work, pictures=1))):
        return "one picture at a time would fit"
    for side in SIDES:
        if side**2 < work.pixels and any(_fitting(machine, footprint, replace(work, pixels=side**2, pictures=1))):
            return f"{side} × {side} would fit"
    return "no size of this model fits"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: on a GPU, or with a plain RuntimeError in RAM or on Apple's."""
    return (
        type(error).__name__ == "OutOfMemoryError"
        or isinstance(error, MemoryError)
        or any(said in str(error) for said in ("DefaultCPUAllocator", "MPS backend out of memory"))
    )
