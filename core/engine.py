"""The engine: a request in, events out. What it draws with is the library's, how it fits is the memory's plan."""

from __future__ import annotations

import functools
import gc
import importlib
import logging
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from core import memory
from core.control import Detectors
from core.diffusion import PromptCache, Prompts
from core.errors import CheckpointError, EngineBusy, OutOfMemory
from core.events import LORA_HASH, Event, Finished
from core.families import FAMILIES
from core.library import Checkpoint, Kit, Library, lengths, load_part, read_words
from core.memory import Loaded, Machine, MemoryPlan, ModelCache, RunMemory
from core.prompts import TokenCount, count_tokens
from core.request import GenerationRequest, without_tags
from core.settings import VERSION, Settings

if TYPE_CHECKING:
    from core.diffusion.work import Passes, Previewer, Refining
    from core.families.work import Model
    from core.library import Part
    from core.library.work import Loader
    from core.lora.work import LoraReport, Merged, Merger

log = logging.getLogger(__name__)
CACHE_SHARE = 0.6  # of the RAM that is free when the engine starts
NEEDED = ("core.families.work", "core.lora.work", "core.diffusion.work")  # for a run, with the families


class Engine:
    """Turns requests into pictures, one run at a time. Cheap to make: `prepare` or the first run imports torch."""

    def __init__(self, settings: Settings | None = None, library: Library | None = None) -> None:
        self.settings = settings or Settings()
        self.library = library or Library(self.settings)
        self._machine = memory.inspect(self.settings.device)
        self._models = ModelCache(int(CACHE_SHARE * self._machine.ram_free))
        self._prompts = PromptCache()
        self._open = threading.Lock()
        self._door = threading.Lock()  # held by who takes the engine, and while models are unloaded
        self._importing = threading.Lock()
        self._idle: threading.Timer | None = None
        self.detectors = Detectors(
            functools.partial(self.library.folders, "preprocessors"), self._models, self.prepare
        )
        self._reports: dict[str, LoraReport] = {}
        self.last_run: RunMemory | None = None

    @functools.cached_property
    def _merger(self) -> Merger:
        from core.lora.work import Merger

        return Merger()

    def prepare(self) -> None:
        """Import what a run needs, a few seconds' work the first time, and settle torch's threads."""
        with self._importing:
            import torch
            import transformers

            for module in (*NEEDED, *(family.module for family in FAMILIES.values())):
                importlib.import_module(module)
            torch.set_num_threads(self._machine.threads)
            transformers.utils.logging.disable_progress_bar()

    def lora_report(self, name: str) -> LoraReport | None:
        """What became of a LoRA when it was last merged; None if it has not been yet."""
        return self._reports.get(name)

    def count_tokens(self, text: str, name: str | None) -> TokenCount:
        """How long a prompt is for the checkpoint `name`."""
        self.prepare()  # transformers, imported half by another thread, would look damaged
        checkpoint = self.library.find(name)
        part = next(part for part in checkpoint.parts if part.weights is None)
        told = self.library.tell(GenerationRequest(prompt=without_tags(text)), checkpoint).request.prompt
        words = lengths(self.library.embeddings(told, checkpoint))
        with self._models.use(part.key, 0, lambda: load_part(part, "cpu", "float32")) as tokenizer:
            return count_tokens(tokenizer, told, words)

    def notes(self, request: GenerationRequest) -> tuple[str, ...]:
        """What of a resolved request will not be drawn as it is written. The networks that LoRAs are for are built
        without memory for it, the first time.
        """
        kit = self.library.kit(request)
        if kit.loras:
            self.prepare()
        return self.library.notes(kit)

    # Memory

    def machine(self) -> Machine:
        now = memory.inspect(self.settings.device)
        return now if now.has_memory_of_its_own else replace(now, held=self._held)

    def loaded(self) -> list[Loaded]:
        """What is in memory, with its weights."""
        return self._models.loaded()

    def plan(self, request: GenerationRequest) -> MemoryPlan:
        """How a resolved request would use the memory that is free now. Raises OutOfMemory if it cannot."""
        return self._plan(self.library.kit(request))

    def _plan(self, kit: Kit) -> MemoryPlan:
        return memory.plan(self._with_waiting(self.machine(), kit.parts), kit.footprint, kit.request)

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

    def _free(self) -> None:
        """Give back all memory that is not in use."""
        from core.memory.work import empty_caches

        self._prompts.clear()
        self._models.clear()
        gc.collect()
        empty_caches()

    # A run

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
            kit = self.library.kit(self.library.resolve(request))
            plan = self._plan(kit)
            for attempt in (plan, plan.lighter or plan):
                try:
                    yield from self._run(kit, attempt)
                    return
                except Exception as error:
                    if not memory.is_out_of_memory(error):
                        raise
                    log.warning("Out of memory: %s", error)
                self._free()  # here, where the error and the tensors that its traceback holds are gone
            width, height = kit.request.result_size
            raise OutOfMemory(
                f"{width} × {height} with {kit.checkpoint.title} needs more memory than is free; "
                "use a smaller size or fewer pictures at once."
            )
        finally:
            self._open.release()
            self._unload_later()

    def _run(self, kit: Kit, plan: MemoryPlan) -> Iterator[Event]:
        """One try."""
        self.prepare()
        from core.diffusion.work import vae_as
        from core.library.work import Loader
        from core.memory.work import Placed, placed

        notes = self.library.notes(kit)
        peak = memory.PeakMeter(self._machine.device, memory.resident() - self._held)
        with ExitStack() as in_use:
            loader = Loader(self._models, self._machine.device, plan, in_use)
            self._make_room(loader, kit.models)
            passes, merged = yield from self._load(loader, kit)
            hashes = self.library.hashes(kit)
            parts, refining = passes.model.parts, passes.company.refining
            modules = Placed.of(parts, passes.company.nets, refining.model.parts if refining else None)
            in_use.enter_context(placed(modules, plan.way, self._machine.device))
            in_use.enter_context(vae_as(parts.vae, plan.way.tiles))
            images = yield from passes.run(kit.told.request)
            is_first = self.last_run is None and not self._machine.is_gpu
            self.last_run = RunMemory(kit.checkpoint.title, kit.request.result_size, plan, peak.read(), is_first)
            decoded = "tiled" if parts.vae.use_tiling else "whole"
            told = {name: found.result() for name, found in hashes.items()}
            made_with = self._made_with(plan, told, merged) | {"vae": decoded}
            yield Finished(images, kit.request, made_with, merged.reports, notes)

    def _load(self, loader: Loader, kit: Kit) -> Generator[Event, None, tuple[Passes, Merged]]:
        """Everything that the kit names, from memory or from disk, its LoRAs merged."""
        from core.diffusion.work import Company, Passes

        checkpoint = kit.checkpoint
        model = yield from loader.family(checkpoint, read_words(kit.words, checkpoint.text_encoders))
        loras = yield from loader.loras(kit.loras)
        merged = loader.in_use.enter_context(self._merger.merged(model.networks, loras))
        self._tell(merged)
        nets = yield from loader.networks(kit.nets)
        passes = Passes(
            model=model,
            prompts=self._prompts_of(model, checkpoint, (merged.text_state, *(each.key for each in kit.words))),
            company=Company(nets, self.detectors, (yield from self._refining(loader, kit.refiner))),
            upscaler=kit.upscaler and (yield from loader.part(kit.upscaler, kit.upscaler.folder.stem)),
            preview=(yield from self._previewer(loader, checkpoint)),
        )
        return passes, merged

    def _refining(self, loader: Loader, refiner: Checkpoint | None) -> Generator[Event, None, Refining | None]:
        from core.diffusion.work import Refining

        if refiner is None:
            return None
        model = yield from loader.family(refiner, ({},))
        return Refining(model, self._prompts_of(model, refiner, ()))

    def _tell(self, merged: Merged) -> None:
        for report in merged.reports:
            if report != self._reports.get(report.name):
                log.log(logging.WARNING if report.unmatched else logging.INFO, "LoRA %s", report)
            self._reports[report.name] = report

    def _prompts_of(self, model: Model, checkpoint: Checkpoint, state: tuple[Any, ...]) -> Prompts:
        """`state`: what else shapes encodings, beside the files of encoders and tokenizers."""
        encoders = tuple(part.key for part in checkpoint.parts if part.name.startswith("t"))
        return Prompts(model, (encoders, state), self._prompts)

    def _previewer(self, loader: Loader, checkpoint: Checkpoint) -> Generator[Event, None, Previewer]:
        """With the tiny decoder of the checkpoint's family, where a GPU makes it quick enough."""
        from core.diffusion.work import Previewer

        if not self.settings.previews:
            return Previewer(None)
        name, decoder = FAMILIES[checkpoint.family].preview_decoder, None
        if self._machine.is_gpu:
            try:
                part = self.library.preview_decoder(checkpoint)
                decoder = (yield from loader.part(part, name)) if part else None
            except CheckpointError as error:
                log.warning("Previews go without their decoder: %s: %s", name, error)
        return Previewer(checkpoint.latent_format, decoder)

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


@dataclass(frozen=True)
class LocalRunner:
    """The engine of this process, as a queue knows it: a `Runner` of core/jobs."""

    engine: Engine
    capacity: int = 1

    def prepare(self) -> None:
        self.engine.prepare()

    def run(self, request: GenerationRequest) -> Iterator[Event]:
        return self.engine.generate(request)

    def close(self) -> None:
        """The engine's models go with the process."""
