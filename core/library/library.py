"""The library: what is on disk, as last looked at, and what a request finds there."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core.errors import CheckpointError, LoraError
from core.events import HASH_OF
from core.families import FAMILIES
from core.library import embeddings, networks, text_encoders, vaes
from core.library.checkpoints import Checkpoint, named, scan
from core.library.detectors import check_detectors
from core.library.embeddings import Embedding
from core.library.fitting import Fitting
from core.library.folders import READ_ONLY, models_in, origin, shelves
from core.library.hashes import Hashes
from core.library.headers import own_hashes
from core.library.loras import LoraInfo, LoraShelf
from core.library.missing import AtHand, Here, at_hand, renamed
from core.library.names import meant, the_one
from core.library.networks import Network
from core.library.parts import Part, find_decoder
from core.library.resolving import check_with, size_with, with_loras
from core.library.sidecars import beside
from core.library.telling import Told, tell
from core.library.upscalers import find_upscaler, list_upscalers, upscaler_files
from core.memory import Footprint
from core.request import SEED_LIMIT, UPSCALERS, GenerationRequest, Lora, reject, take_tags
from core.settings import Settings

ON_DISK = {"vae": "vae", "upscaler": "upscalers"}  # kinds that are looked for anew each time, and their folders


@dataclass(frozen=True)
class Kit:
    """All that a resolved request is drawn with, as files: `checkpoint` with the VAE that is asked for, the networks
    of its units in their order, the LoRAs with what they are on disk, the embeddings that its prompts name. `told`
    is the request with its prompts as they are read.
    """

    request: GenerationRequest
    told: Told
    checkpoint: Checkpoint
    refiner: Checkpoint | None
    upscaler: Part | None
    nets: tuple[Part, ...]
    loras: tuple[tuple[Lora, LoraInfo], ...]
    words: tuple[Embedding, ...]

    @property
    def models(self) -> tuple[Checkpoint, ...]:
        return (self.checkpoint, *([self.refiner] if self.refiner else []))

    @property
    def parts(self) -> list[Part]:
        """Of all models that predict."""
        return [*self.checkpoint.parts, *self.nets, *(self.refiner.parts if self.refiner else ())]

    @property
    def footprint(self) -> Footprint:
        changes = sum(info.changes for lora, info in self.loras if lora.has_influence)
        nets = tuple(net.parameters for net in self.nets)
        own = replace(self.checkpoint.footprint, nets=nets, merging=changes)
        return own.with_refiner(self.refiner.footprint) if self.refiner else own


class Library:
    """The models' folders of `settings`. What cannot be used is listed with its `problem`, and refused if asked for.

    Looking reads headers alone, and imports nothing that computes.
    """

    def __init__(self, settings: Settings) -> None:
        self._given, self._limits = settings.model_folders, settings.limits
        self._hashes = Hashes(settings.data)
        self._loras = LoraShelf(())
        self._fitting = Fitting()
        self.rescan()

    def rescan(self) -> tuple[Checkpoint, ...]:
        """Look at the folders again."""
        self._shelves = shelves(self._given)
        encoders = text_encoders.scan(self.folders("text_encoders"))
        models, nets = self.origins("checkpoints"), self.origins("controlnet")
        found, known = scan(self.folders("checkpoints"), encoders), networks.scan(self.folders("controlnet"))
        self._checkpoints = tuple(replace(each, origin=models.get(each.name, "")) for each in found)
        self._networks = tuple(replace(each, origin=nets.get(each.name, "")) for each in known)
        self._loras.look(self.folders("loras"))
        self._embeddings = embeddings.scan(self.folders("embeddings"))
        return self._checkpoints

    def folders(self, kind: str) -> tuple[Path, ...]:
        """Where files of a kind lie, Darkroom's own folder first."""
        return self._shelves.folders(kind)

    def origins(self, kind: str) -> dict[str, str]:
        """The tools in whose folders files of a kind lie, by their names; Darkroom's own are not among them."""
        of_folders = self._shelves.origins(kind)
        told = {name: origin(path, of_folders) for name, path in self._files(kind).items()} if of_folders else {}
        return {name: tool for name, tool in told.items() if tool}

    def _files(self, kind: str) -> dict[str, Path]:
        return (upscaler_files if kind == "upscalers" else models_in)(self.folders(kind))

    # What there is

    def checkpoints(self) -> tuple[Checkpoint, ...]:
        return self._checkpoints

    def refiners(self) -> tuple[Checkpoint, ...]:
        """The models that may draw the last steps of a run of XL."""
        return tuple(checkpoint for checkpoint in self._checkpoints if checkpoint.is_refiner)

    def networks(self) -> tuple[Network, ...]:
        """The ControlNets."""
        return self._networks

    def loras(self) -> tuple[LoraInfo, ...]:
        tools = self._shelves.origins("loras")
        return tuple(replace(info, origin=origin(info.path, tools)) for info in self._loras)

    def add_lora(self, file: Path, name: str) -> LoraInfo:
        """Copy a file into models/loras. Raises LoraError if it is no LoRA, or that folder is not Darkroom's."""
        if not self._shelves.is_own("loras"):
            raise LoraError(f"LoRA: {READ_ONLY}")
        return self._loras.add(file, name)

    def vaes(self) -> tuple[str, ...]:
        return vaes.list_vaes(self.folders("vae"))

    def upscalers(self) -> tuple[str, ...]:
        return list_upscalers(self.folders("upscalers"))

    def embeddings(
        self, text: str, checkpoint: Checkpoint, bundled: tuple[Embedding, ...] = ()
    ) -> tuple[Embedding, ...]:
        """Those that fit the model and that `text` names; of one name the folder's before the `bundled`."""
        return embeddings.named_in(text, (*bundled, *self._embeddings), checkpoint)

    def preview_decoder(self, checkpoint: Checkpoint) -> Part | None:
        """The tiny decoder of a model's family, if it is there. Raises CheckpointError if it is damaged."""
        known = models_in(self.folders("previews"))
        return find_decoder(known.get(the_one(FAMILIES[checkpoint.family].preview_decoder, known) or ""))

    def find(self, name: str | None) -> Checkpoint:
        """The checkpoint that a name means, see names.py, or the first that works if none is named.

        Raises RequestError if there is none of that name, CheckpointError if it is broken, or there is none at all.
        """
        usable = [checkpoint for checkpoint in self._checkpoints if checkpoint.problem is None]
        if name is None and usable:
            return usable[0]
        if name is None:
            raise CheckpointError("Model: there is none yet; put a diffusers folder into models/checkpoints.")
        found = named(name or "", self._checkpoints)
        if found and found.problem:
            raise CheckpointError(f"Model: {found.name} cannot be used: {found.problem}.")
        if found:
            return found
        raise reject("checkpoint", name, "one of " + ", ".join(checkpoint.name for checkpoint in usable))

    # What a request finds

    def resolve(self, request: GenerationRequest) -> GenerationRequest:
        """The request with the model's own values and a seed filled in, checked against model and limits.

        LoRAs that the prompt names in tags are among `loras` then. Raises RequestError for a value this model or host
        does not allow, CheckpointError for a model that is broken, LoraError for a LoRA that is or is for another.
        """
        request = self._named(take_tags(request))
        checkpoint = self.find(request.checkpoint)
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
        self._check(resolved, checkpoint)
        return resolved

    def _named(self, request: GenerationRequest) -> GenerationRequest:
        """`request` with the names that its files have here; one that means none is left for whom it concerns."""
        return request.replace(**renamed(dict(request), lambda kind, name: self._here(kind).find(name) or name))

    def at_hand(
        self,
        fields: Mapping[str, Any],
        hashes: Mapping[str, str] | None = None,
        others: Iterable[tuple[str, str]] = (),
    ) -> AtHand:
        """Settings as this machine can draw them, and what they name that is not here; see missing.py."""
        return at_hand(fields, self._here, hashes or {}, others)

    def _here(self, kind: str) -> Here:
        """What there is of one of missing.py's kinds. Models and networks that cannot be used do not count."""
        if kind in ON_DISK:
            files = self._files(ON_DISK[kind])
            names = (*(UPSCALERS if kind == "upscaler" else ()), *files)
            return self._known(names, lambda name: [files[name]] if name in files else [])
        if kind == "lora":
            loras = {info.name: info for info in self._loras}
            return replace(self._known(loras, lambda name: [loras[name].path]), find=self._loras.only)
        if kind in ("checkpoint", "refiner"):
            usable = [each for each in self._checkpoints if each.problem is None]
            models = {each.name: each for each in (self.refiners() if kind == "refiner" else usable)}
            return self._known(models, lambda name: models[name].files)
        if kind == "controlnet":
            return self._known([each.name for each in self._networks if each.part], lambda name: [])
        words = [each.reference for each in self._embeddings]  # any of those that a name may mean is found
        return Here(words, lambda name: next(iter(meant(name, words)), None))

    def _known(self, names: Collection[str], files: Callable[[str], Sequence[Path]]) -> Here:
        def hashes() -> Iterator[tuple[str, str]]:
            for name in names:
                with suppress(CheckpointError):  # a file that is gone since the last look
                    yield from ((name, told) for told in self._told_hashes(files(name)))

        return Here(names, lambda name: the_one(name, names), hashes)

    def _told_hashes(self, files: Sequence[Path]) -> Iterator[str]:
        """Of one model's files, as far as they are known without reading it."""
        if known := self._hashes.known(files):
            yield known
        for file in files[:1]:
            yield from (*beside(file).hashes, *own_hashes(file))

    def _check(self, resolved: GenerationRequest, checkpoint: Checkpoint) -> None:
        told = self.tell(resolved, checkpoint).request
        check_with(told, checkpoint)
        networks.asked_for(resolved, checkpoint, self._networks)
        embeddings.check(told, self._embeddings)
        check_detectors(self.folders("preprocessors"), resolved.controls)
        self._refiner(resolved, self._fitted(resolved))
        self._upscaler(resolved)
        self._limits.check(resolved)
        if resolved.image or resolved.hires:
            from core.pictures.work import check_pictures

            check_pictures(resolved)

    def kit(self, resolved: GenerationRequest) -> Kit:
        """What a resolved request is drawn with. Raises as `resolve` does for what has gone since."""
        checkpoint = self._fitted(resolved)
        loras = tuple((lora, self._loras.find(lora.name)) for lora in resolved.loras)
        bundled = tuple(word for lora, info in loras if lora.has_influence for word in info.bundled)
        told = self.tell(resolved, checkpoint, bundled)
        return Kit(
            request=resolved,
            told=told,
            checkpoint=checkpoint,
            refiner=self._refiner(resolved, checkpoint),
            upscaler=self._upscaler(resolved),
            nets=tuple(networks.asked_for(resolved, checkpoint, self._networks)),
            loras=loras,
            words=self.embeddings(embeddings.all_prompts(told.request), checkpoint, bundled),
        )

    def tell(self, request: GenerationRequest, checkpoint: Checkpoint, bundled: tuple[Embedding, ...] = ()) -> Told:
        """What a request's prompts tell a model, with the embeddings here and those that are `bundled` in LoRAs."""
        return tell(request, checkpoint, (*bundled, *self._embeddings))

    def notes(self, kit: Kit) -> tuple[str, ...]:
        """What to know before a run: what of its prompts is not read, and which LoRAs hardly fit the model."""
        wanted = [info for lora, info in kit.loras if lora.has_influence]
        misfits = (self._fitting.misfit(info, kit.checkpoint) for info in wanted)
        return (*kit.told.notes, *filter(None, misfits))

    def model_hash(self, checkpoint: Checkpoint) -> str | None:
        """A1111's short hash, if it was computed before."""
        return self._hashes.known(checkpoint.files)

    def hashes(self, kit: Kit) -> dict[str, Future[str]]:
        """Of what shapes the picture beside LoRAs, by its name in `made_with`."""
        return {name: self._hashes.of(files) for name, files in self._files_of(kit).items()}

    def _files_of(self, kit: Kit) -> Mapping[str, list[Path]]:
        own = self.find(kit.request.checkpoint).files
        vae = next(part for part in kit.checkpoint.parts if part.name == "vae")
        units = zip(kit.request.controls, kit.nets, strict=True)
        return {
            "model_hash": own,
            **({"refiner_hash": kit.refiner.files} if kit.refiner else {}),
            **({} if set(vae.files) <= set(own) else {"vae_hash": vae.files}),
            **{f"embedding{HASH_OF}{each.name}": [each.path] for each in kit.words},
            **{f"controlnet{HASH_OF}{unit.net}": net.files for unit, net in units},
            **({"upscaler_hash": kit.upscaler.files} if kit.upscaler else {}),
        }

    def _fitted(self, request: GenerationRequest) -> Checkpoint:
        """The checkpoint of a resolved request, with the VAE that it asks for. Raises as `vaes.with_vae` does."""
        return vaes.with_vae(self.find(request.checkpoint), self.folders("vae"), request.vae)

    def _refiner(self, request: GenerationRequest, checkpoint: Checkpoint) -> Checkpoint | None:
        """The refiner of a resolved request, for its `checkpoint`; None if it wants none. Raises RequestError."""
        if request.refiner is None:
            return None
        if FAMILIES[checkpoint.family].refiner is None:
            raise reject("refiner", request.refiner, f"none with {checkpoint.title}, which is no model of SDXL")
        if checkpoint.inpaints_only:
            raise reject("refiner", request.refiner, f"none with {checkpoint.title}, which is for inpainting alone")
        known = {refiner.name: refiner for refiner in self.refiners()}
        if request.refiner not in known:
            raise reject("refiner", request.refiner, "one of " + ", ".join(known or ["none, as there is none yet"]))
        return known[request.refiner]

    def _upscaler(self, request: GenerationRequest) -> Part | None:
        """The super-resolution model of the second pass, None where none is needed. Raises as `find_upscaler`."""
        return find_upscaler(self.folders("upscalers"), request.hires.upscaler) if request.hires else None
