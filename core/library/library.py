"""The library: what is on disk, as last looked at, and what a request finds there."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

from core.errors import CheckpointError
from core.events import HASH_OF
from core.families import FAMILIES
from core.library import embeddings, networks, text_encoders, vaes
from core.library.checkpoints import Checkpoint, scan
from core.library.detectors import check_detectors
from core.library.embeddings import Embedding
from core.library.fitting import Fitting
from core.library.hashes import Hashes
from core.library.loras import LoraInfo, LoraShelf
from core.library.networks import Network
from core.library.parts import Part, find_decoder
from core.library.resolving import check_with, size_with, with_loras
from core.library.telling import Told, tell
from core.library.upscalers import find_upscaler, list_upscalers
from core.memory import Footprint
from core.request import SEED_LIMIT, GenerationRequest, Lora, reject, take_tags
from core.settings import Settings


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
        self.folder, self._limits = settings.models, settings.limits
        self._hashes = Hashes(settings.data)
        self._loras = LoraShelf(self.folder / "loras")
        self._fitting = Fitting()
        self.rescan()

    def rescan(self) -> tuple[Checkpoint, ...]:
        """Look at the folders again."""
        encoders = text_encoders.scan(self.folder / "text_encoders")
        self._checkpoints = scan(self.folder / "checkpoints", encoders)
        self._networks = networks.scan(self.folder / "controlnet")
        self._loras.scan()
        self._embeddings = embeddings.scan(self.folder / "embeddings")
        return self._checkpoints

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
        return tuple(self._loras)

    def add_lora(self, file: Path, name: str) -> LoraInfo:
        """Copy a file into models/loras. Raises LoraError if it is no LoRA."""
        return self._loras.add(file, name)

    def vaes(self) -> tuple[str, ...]:
        return vaes.list_vaes(self.folder / "vae")

    def upscalers(self) -> tuple[str, ...]:
        return list_upscalers(self.folder / "upscalers")

    def embeddings(
        self, text: str, checkpoint: Checkpoint, bundled: tuple[Embedding, ...] = ()
    ) -> tuple[Embedding, ...]:
        """Those that fit the model and that `text` names; of one name the folder's before the `bundled`."""
        return embeddings.named_in(text, (*bundled, *self._embeddings), checkpoint)

    def preview_decoder(self, checkpoint: Checkpoint) -> Part | None:
        """The tiny decoder of a model's family, if it is there. Raises CheckpointError if it is damaged."""
        return find_decoder(self.folder / "previews" / FAMILIES[checkpoint.family].preview_decoder)

    def find(self, name: str | None) -> Checkpoint:
        """The checkpoint of that name, or the first that works if none is named.

        Raises RequestError if there is none of that name, CheckpointError if it is broken, or there is none at all.
        """
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

    # What a request finds

    def resolve(self, request: GenerationRequest) -> GenerationRequest:
        """The request with the model's own values and a seed filled in, checked against model and limits.

        LoRAs that the prompt names in tags are among `loras` then. Raises RequestError for a value this model or host
        does not allow, CheckpointError for a model that is broken, LoraError for a LoRA that is or is for another.
        """
        request = take_tags(request)
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

    def _check(self, resolved: GenerationRequest, checkpoint: Checkpoint) -> None:
        told = self.tell(resolved, checkpoint).request
        check_with(told, checkpoint)
        networks.asked_for(resolved, checkpoint, self._networks)
        embeddings.check(told, self._embeddings)
        check_detectors(self.folder / "preprocessors", resolved.controls)
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
        return {name: self._hashes.of(files) for name, files in self._files(kit).items()}

    def _files(self, kit: Kit) -> Mapping[str, list[Path]]:
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
        return vaes.with_vae(self.find(request.checkpoint), self.folder / "vae", request.vae)

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
        return find_upscaler(self.folder / "upscalers", request.hires.upscaler) if request.hires else None
