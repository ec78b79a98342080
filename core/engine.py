"""The engine: a request in, events out. It finds the models, keeps them, and knows what fits into memory."""

from __future__ import annotations

import functools
import gc
import importlib
import logging
import secrets
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from core.control.detectors import Detectors
from core.diffusion import prompting as prompts
from core.diffusion.prompting import PromptCache, Prompts, TokenCount
from core.errors import CheckpointError, EngineBusy, OutOfMemory
from core.events import HASH_OF, LORA_HASH, Event, Finished
from core.families import FAMILIES
from core.library import embeddings, networks, text_encoders, vaes
from core.library.checkpoints import Checkpoint, scan
from core.library.hashes import Hashes
from core.library.loading import Loader
from core.library.loras import LoraInfo, LoraShelf
from core.library.networks import Network
from core.library.parts import Part, load_part
from core.library.resolving import check_with, size_with, with_loras
from core.library.upscalers import find_upscaler, list_upscalers
from core.memory import machine
from core.memory import planning as memory
from core.memory.cache import Loaded, ModelCache
from core.memory.machine import Machine, PeakMeter, resident
from core.memory.planning import MemoryPlan, RunMemory
from core.request.generation import SEED_LIMIT, GenerationRequest, reject
from core.request.tags import take_tags, without_tags
from core.settings import VERSION, Settings

if TYPE_CHECKING:
    from pathlib import Path

    from core.diffusion.preview import Previewer
    from core.diffusion.start import Refining
    from core.families.sd import StableDiffusion
    from core.lora.merging import LoraReport, Merged, Merger

log = logging.getLogger(__name__)
CACHE_SHARE = 0.6  # of the RAM that is free when the engine starts


class Engine:
    """Turns requests into pictures, one run at a time. Cheap to make: `prepare` or the first run imports torch."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self._machine = machine.inspect(self.settings.device)
        self._models = ModelCache(int(CACHE_SHARE * self._machine.ram_free))
        self._prompts = PromptCache()
        self._hashes = Hashes(self.settings.data)
        self._open = threading.Lock()
        self._door = threading.Lock()  # held by who takes the engine, and while models are unloaded
        self._importing = threading.Lock()
        self._idle: threading.Timer | None = None
        self.detectors = Detectors(self.settings.models / "preprocessors", self._models, self.prepare)
        self._loras = LoraShelf(self.settings.models / "loras")
        self._reports: dict[str, LoraReport] = {}
        self.last_run: RunMemory | None = None
        self.rescan()

    @functools.cached_property
    def _merger(self) -> Merger:
        from core.lora.merging import Merger

        return Merger()

    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """The models as last looked at, broken ones with their `problem`."""
        return self._checkpoints

    def networks(self) -> tuple[Network, ...]:
        """The ControlNets, as last looked at, likewise."""
        return self._networks

    def rescan(self) -> tuple[Checkpoint, ...]:
        """Look at the models' folders again."""
        encoders = text_encoders.scan(self.settings.models / "text_encoders")
        self._checkpoints = scan(self.settings.models / "checkpoints", encoders)
        self._networks = networks.scan(self.settings.models / "controlnet")
        self._loras.scan()
        self._embeddings = embeddings.scan(self.settings.models / "embeddings")
        return self._checkpoints

    def loras(self) -> tuple[LoraInfo, ...]:
        """The LoRAs as last looked at, broken ones with their `problem`."""
        return tuple(self._loras)

    def add_lora(self, file: Path, name: str) -> LoraInfo:
        """Copy a file into models/loras. Raises LoraError if it is no LoRA."""
        return self._loras.add(file, name)

    def lora_report(self, name: str) -> LoraReport | None:
        """What became of a LoRA when it was last merged; None if it has not been yet."""
        return self._reports.get(name)

    def refiners(self) -> tuple[Checkpoint, ...]:
        """The models that may draw the last steps of a run of XL."""
        return tuple(checkpoint for checkpoint in self._checkpoints if checkpoint.is_refiner)

    def vaes(self) -> tuple[str, ...]:
        return vaes.list_vaes(self.settings.models / "vae")

    def upscalers(self) -> tuple[str, ...]:
        return list_upscalers(self.settings.models / "upscalers")

    def machine(self) -> Machine:
        now = machine.inspect(self.settings.device)
        return now if now.has_memory_of_its_own else replace(now, held=self._held)

    def plan(self, request: GenerationRequest) -> MemoryPlan:
        """How a resolved request would use the memory that is free now. Raises OutOfMemory if it cannot."""
        checkpoint = self._fitted(request)
        nets = networks.asked_for(request, checkpoint, self._networks)
        changes = sum(self._loras.find(lora.name).changes for lora in request.loras if lora.has_influence)
        parameters = tuple(net.parameters for net in nets)
        footprint = replace(checkpoint.footprint, nets=parameters, merging=changes)
        parts = [*checkpoint.parts, *nets]
        if refiner := self._refiner(request, checkpoint):
            footprint = footprint.with_refiner(refiner.footprint)
            parts += refiner.parts
        return memory.plan(self._with_waiting(self.machine(), parts), footprint, request)

    def _with_waiting(self, now: Machine, parts: Sequence[Part]) -> Machine:
        """`now` for a run of `parts`: those that wait in RAM beside a GPU take no more of it."""
        if not now.has_memory_of_its_own:
            return now
        paths, loaded = {part.key.path for part in parts}, self._models.models()
        held = [size for key, size, model in loaded if key.path in paths and model.device.type == "cpu"]
        return replace(now, ram_held=sum(held) + self._kept)

    @property
    def _kept(self) -> int:
        """Bytes of what LoRAs changed. Without a model there are none, and torch need not be loaded to tell."""
        return self._merger.size if self._models.size else 0

    @property
    def _held(self) -> int:
        """Bytes of models and of what LoRAs changed in them: a run uses them again, or they make way."""
        return self._models.size + self._kept

    def loaded(self) -> list[Loaded]:
        """What is in memory, with its weights."""
        return self._models.loaded()

    def model_hash(self, checkpoint: Checkpoint) -> str | None:
        """A1111's short hash, if it was computed before."""
        return self._hashes.known(checkpoint.files)

    def unload(self) -> None:
        """Give the memory of all models back. Raises EngineBusy while a run is open."""
        with self._door:
            if self._open.locked():
                raise EngineBusy("A picture is being made; stop it first.")
            self._free()

    def _unload_later(self) -> None:
        """After a run: unless another begins, models leave the memory when the host's minutes are over."""

        def unload() -> None:
            with suppress(EngineBusy):
                self.unload()

        if self.settings.idle_unload:
            self._idle = threading.Timer(60 * self.settings.idle_unload, unload)
            self._idle.daemon = True
            self._idle.start()

    def count_tokens(self, text: str, name: str | None) -> TokenCount:
        """How long a prompt is for the checkpoint `name`."""
        self.prepare()  # transformers, imported half by another thread, would look damaged
        checkpoint = self._find(name)
        part = next(part for part in checkpoint.parts if part.weights is None)
        words = embeddings.lengths(embeddings.named_in(text, self._embeddings, checkpoint))
        with self._models.use(part.key, 0, lambda: load_part(part, "cpu", "float32")) as tokenizer:
            return prompts.count_tokens(tokenizer, without_tags(text), words)

    def prepare(self) -> None:
        """Import what a run needs, a few seconds' work the first time, and settle torch's threads."""
        with self._importing:
            import torch
            import transformers

            for module in (
                "core.families.attention",
                "core.lora.merging",
                "core.diffusion.passes",
                *(family.module for family in FAMILIES.values()),
            ):
                importlib.import_module(module)
            torch.set_num_threads(self._machine.threads)
            transformers.utils.logging.disable_progress_bar()

    def resolve(self, request: GenerationRequest) -> GenerationRequest:
        """The request with the model's own values and a seed filled in, checked against model and limits.

        LoRAs that the prompt names in tags are among `loras` then. Raises RequestError for a value this model or host
        does not allow, CheckpointError for a model that is broken, LoraError for a LoRA that is or is for another.
        """
        request = take_tags(request)
        checkpoint = self._find(request.checkpoint)
        width, height = size_with(request, checkpoint)
        drawn = secrets.randbelow(SEED_LIMIT - request.batch_size)
        loras = self._loras.resolve(request.loras, checkpoint)
        best = with_loras(checkpoint, loras)
        resolved = request.replace(
            checkpoint=checkpoint.name,
            sampler=request.sampler or best.sampler,
            guidance_scale=best.guidance_scale if request.guidance_scale is None else request.guidance_scale,
            width=width,
            height=height,
            seed=drawn if request.seed is None else request.seed,
            loras=loras,
        )
        check_with(resolved, checkpoint)
        networks.asked_for(resolved, checkpoint, self._networks)
        embeddings.check(resolved, self._embeddings)
        self.detectors.check(resolved.controls)
        self._refiner(resolved, self._fitted(resolved))
        self._upscaler(resolved)
        self.settings.limits.check(resolved)
        if resolved.image or resolved.hires:
            from core.pictures.canvas import check_pictures

            check_pictures(resolved)
        return resolved

    def generate(self, request: GenerationRequest) -> Iterator[Event]:
        """Run `request`: Loading, Steps, Finished. Close the iterator to cancel.

        Raises RequestError, CheckpointError, EngineBusy while another run is open, and OutOfMemory when a second try
        with the next plan of memory did not fit either. A failed run leaves nothing behind.
        """
        with self._door:
            if not self._open.acquire(blocking=False):
                raise EngineBusy("The engine is at work on another picture.")
        if self._idle:
            self._idle.cancel()
        try:
            resolved = self.resolve(request)
            checkpoint = self._fitted(resolved)
            plan = self.plan(resolved)
            for attempt in (plan, plan.lighter or plan):
                try:
                    yield from self._run(resolved, checkpoint, attempt)
                    return
                except Exception as error:
                    if not memory.is_out_of_memory(error):
                        raise
                    log.warning("Out of memory: %s", error)
                self._free()  # here, where the error and the tensors that its traceback holds are gone
            width, height = resolved.result_size
            raise OutOfMemory(
                f"{width} × {height} with {checkpoint.title} needs more memory than is free; "
                "use a smaller size or fewer pictures at once."
            )
        finally:
            self._open.release()
            self._unload_later()

    def _run(self, request: GenerationRequest, checkpoint: Checkpoint, plan: MemoryPlan) -> Iterator[Event]:
        """One try. `request` is resolved."""
        self.prepare()
        from core.diffusion.decoding import vae_as
        from core.diffusion.passes import Passes
        from core.diffusion.start import Company
        from core.memory.placing import Placed, placed

        peak = PeakMeter(self._machine.device, resident() - self._held)
        refiner = self._refiner(request, checkpoint)
        with ExitStack() as in_use:
            loader = Loader(self._models, self._machine.device, plan, in_use)
            self._make_room(loader, [checkpoint, *([refiner] if refiner else [])])
            named = embeddings.named_in(embeddings.all_prompts(request), self._embeddings, checkpoint)
            model = yield from loader.family(checkpoint, embeddings.read(named, checkpoint.text_encoders))
            loras = yield from loader.loras((lora, self._loras.find(lora.name)) for lora in request.loras)
            merged = in_use.enter_context(self._merger.merged(model.networks, loras))
            self._tell(merged)
            nets = yield from loader.networks(networks.asked_for(request, checkpoint, self._networks))
            upscaler = self._upscaler(request)
            passes = Passes(
                model=model,
                prompts=self._prompts_of(model, checkpoint, (merged.text_state, *(each.key for each in named))),
                company=Company(nets, self.detectors, (yield from self._refining(loader, refiner))),
                upscaler=upscaler and (yield from loader.part(upscaler, upscaler.folder.stem)),
                preview=(yield from self._previewer(loader, checkpoint)),
            )
            files = {name: self._hashes.of(each) for name, each in self._files(request, checkpoint).items()}
            parts = model.parts
            in_use.enter_context(placed(Placed.of(model, passes.company), plan.way, self._machine.device))
            in_use.enter_context(vae_as(parts.vae, plan.way.tiles))
            images = yield from passes.run(request)
            is_first = self.last_run is None and not self._machine.is_gpu
            self.last_run = RunMemory(checkpoint.title, request.result_size, plan, peak.read(), is_first)
            decoded = "tiled" if parts.vae.use_tiling else "whole"
            hashes = {name: found.result() for name, found in files.items()}
            made_with = self._made_with(plan, hashes, merged) | {"vae": decoded}
            yield Finished(images, request, made_with, merged.reports)

    def _refining(self, loader: Loader, refiner: Checkpoint | None) -> Generator[Event, None, Refining | None]:
        from core.diffusion.start import Refining

        if refiner is None:
            return None
        model = yield from loader.family(refiner, ({},))
        return Refining(model, self._prompts_of(model, refiner, ()))

    def _make_room(self, loader: Loader, used: Sequence[Checkpoint]) -> None:
        """Where it is needed, models that this run does not use leave the device: for the RAM, or for good."""
        parts = [part for checkpoint in used for part in checkpoint.parts]
        own, now = [loader.key(part) for part in parts], self._with_waiting(self.machine(), parts)
        needs = loader.plan.needs
        if now.has_memory_of_its_own and loader.plan.ram > now.ram_free + now.ram_held:
            self._models.clear(but=own)
        if now.has_memory_of_its_own and needs > now.memory_free:
            for _, _, model in self._models.models(but=own):
                model.to("cpu")
        elif not now.has_memory_of_its_own and needs > now.memory_free + self._models.size_of(own):
            self._models.clear(but=own)

    def _tell(self, merged: Merged) -> None:
        for report in merged.reports:
            if report != self._reports.get(report.name):
                log.log(logging.WARNING if report.unmatched else logging.INFO, "LoRA %s", report)
            self._reports[report.name] = report

    def _prompts_of(self, model: StableDiffusion, checkpoint: Checkpoint, state: tuple[Any, ...]) -> Prompts:
        """`state`: what else shapes encodings, beside the files of encoders and tokenizers."""
        encoders = tuple(part.key for part in checkpoint.parts if part.name.startswith("t"))
        return Prompts(model, (encoders, state), self._prompts)

    def _previewer(self, loader: Loader, checkpoint: Checkpoint) -> Generator[Event, None, Previewer]:
        """With the tiny decoder of the checkpoint's family, where a GPU makes it quick enough."""
        from core.diffusion.preview import Previewer, find_decoder

        if not self.settings.previews:
            return Previewer(None)
        name, decoder = FAMILIES[checkpoint.family].preview_decoder, None
        if self._machine.is_gpu:
            try:
                part = find_decoder(self.settings.models / "previews" / name)
                decoder = (yield from loader.part(part, name)) if part else None
            except CheckpointError as error:
                log.warning("Previews go without their decoder: %s: %s", name, error)
        return Previewer(checkpoint.latent_format, decoder)

    def _files(self, request: GenerationRequest, checkpoint: Checkpoint) -> dict[str, list[Path]]:
        """What shapes the picture beside LoRAs, by its name in `made_with`: each is told by its hash."""
        own = self._find(request.checkpoint).files
        refiner, upscaler = self._refiner(request, checkpoint), self._upscaler(request)
        vae = next(part for part in checkpoint.parts if part.name == "vae")
        words = embeddings.named_in(embeddings.all_prompts(request), self._embeddings, checkpoint)
        nets = networks.asked_for(request, checkpoint, self._networks)
        return {
            "model_hash": own,
            **({"refiner_hash": refiner.files} if refiner else {}),
            **({} if set(vae.files) <= set(own) else {"vae_hash": vae.files}),
            **{f"embedding{HASH_OF}{each.name}": [each.path] for each in words},
            **{f"controlnet{HASH_OF}{unit.net}": net.files for unit, net in zip(request.controls, nets, strict=True)},
            **({"upscaler_hash": upscaler.files} if upscaler else {}),
        }

    def _made_with(self, plan: MemoryPlan, hashes: Mapping[str, str], merged: Merged) -> dict[str, str]:
        return {
            **hashes,
            **{f"{LORA_HASH}{report.name}": report.hash for report in merged.reports},
            "darkroom": VERSION,
            "torch": version("torch"),
            "diffusers": version("diffusers"),
            "device": self._machine.name,
            "dtype": plan.precision,
            "threads": str(self._machine.threads),
        }

    def _free(self) -> None:
        """Give back all memory that is not in use."""
        from core.diffusion.decoding import empty_caches

        self._prompts.clear()
        self._models.clear()
        gc.collect()
        empty_caches()

    def _fitted(self, request: GenerationRequest) -> Checkpoint:
        """The checkpoint of a resolved request, with the VAE that it asks for. Raises as `vaes.with_vae` does."""
        return vaes.with_vae(self._find(request.checkpoint), self.settings.models / "vae", request.vae)

    def _refiner(self, request: GenerationRequest, checkpoint: Checkpoint) -> Checkpoint | None:
        """The refiner of a resolved request, for its `checkpoint`; None if it wants none. Raises RequestError."""
        if request.refiner is None:
            return None
        if checkpoint.family != "sdxl":
            raise reject("refiner", request.refiner, f"none with {checkpoint.title}, which is no model of SDXL")
        if checkpoint.inpaints_only:
            raise reject("refiner", request.refiner, f"none with {checkpoint.title}, which is for inpainting alone")
        known = {refiner.name: refiner for refiner in self.refiners()}
        if request.refiner not in known:
            raise reject("refiner", request.refiner, "one of " + ", ".join(known or ["none, as there is none yet"]))
        return known[request.refiner]

    def _upscaler(self, request: GenerationRequest) -> Part | None:
        """The super-resolution model of the second pass, None where none is needed. Raises as `find_upscaler`."""
        return find_upscaler(self.settings.models / "upscalers", request.hires.upscaler) if request.hires else None

    def _find(self, name: str | None) -> Checkpoint:
        """The checkpoint of that name, or the first that works if none is named."""
        usable = [checkpoint for checkpoint in self._checkpoints if checkpoint.problem is None]
        if name is None and usable:
            return usable[0]
        if name is None:
            raise CheckpointError("Model: there is none yet; put a diffusers folder into models/checkpoints.")
        for checkpoint in self._checkpoints:
            if checkpoint.name == name and checkpoint.problem:
                raise CheckpointError(f"Model: {name} cannot be used: {checkpoint.problem}.")
            if checkpoint.name == name:
                return checkpoint
        raise reject("checkpoint", name, "one of " + ", ".join(checkpoint.name for checkpoint in usable))
