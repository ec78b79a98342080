"""What a run works with, from memory where it is there, else from disk."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Generator, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.events import Event, Loading
from core.families import FAMILIES
from core.library.checkpoints import Checkpoint
from core.library.lora_weights import read_lora
from core.library.loras import LoraInfo, renewed
from core.library.networks import check_weights
from core.library.part_loading import load_part
from core.library.parts import Part
from core.memory import BYTES, READ_AS, Key, MemoryPlan, ModelCache
from core.request import Lora

if TYPE_CHECKING:
    from core.families.work import Model
    from core.lora.work import LoraFile
    from core.prompts import Words


@dataclass(frozen=True)
class Loader:
    """Loads for one run; all of it is kept in `models` at least while `in_use` is open.

    Each method yields Loading for what has to come from disk, and returns what it is asked for.
    """

    models: ModelCache
    device: str
    plan: MemoryPlan
    in_use: ExitStack

    def family(self, checkpoint: Checkpoint, words: tuple[Words, ...]) -> Generator[Event, None, Model]:
        """The checkpoint's parts, put together; `words`: see core/library/embeddings.py."""
        from core.families.work import Components, forget_prompts

        parts: dict[str, Any] = {}
        largest_first = sorted(checkpoint.parts, key=lambda part: -part.parameters)  # it may shrink once it is read
        for part in largest_first:
            if part.name != "vae" or not checkpoint.is_refiner:  # which works on the other's latents
                parts[part.name] = yield from self.part(part, checkpoint.title)
        parts = {part.name: parts[part.name] for part in checkpoint.parts if part.name in parts}
        denoiser = parts.get("unet") or parts["transformer"]
        self.in_use.callback(forget_prompts, denoiser)
        components = Components(
            denoiser=denoiser,
            vae=parts.get("vae"),
            text_encoders=tuple(model for name, model in parts.items() if name.startswith("text_encoder")),
            tokenizers=tuple(model for name, model in parts.items() if name.startswith("tokenizer")),
            scheduler_config=dict(checkpoint.scheduler_config),
            options=dict(checkpoint.options),
            words=words,
            device=self.device,
        )
        model: Model = importlib.import_module(FAMILIES[checkpoint.family].module).FAMILY(components)
        return model

    def networks(self, parts: Iterable[Part]) -> Generator[Event, None, list[Any]]:
        nets = []
        for part in parts:
            net = yield from self.part(part, part.folder.stem)
            nets.append(net)
        return nets

    def loras(self, wanted: Iterable[tuple[Lora, LoraInfo]]) -> Generator[Event, None, list[tuple[Lora, LoraFile]]]:
        """Those that have a weight, with their files."""
        loaded = []
        for lora, found in wanted:
            if lora.has_influence:
                info = renewed(found)
                if info.key not in self.models:
                    yield Loading(f"LoRA {lora.name}")
                use = self.models.use(info.key, info.size_bytes, functools.partial(read_lora, info))
                loaded.append((lora, self.in_use.enter_context(use)))
        return loaded

    def part(self, part: Part, called: str) -> Generator[Event, None, Any]:
        """One network or tokenizer, where and as precise as the plan has it."""
        key = self.key(part)
        if key not in self.models:
            yield Loading(called)
        dtype = self.plan.vae_dtype if part.name == "vae" else self.plan.dtype
        device = "cpu" if self.plan.way.leaves(part.name) else self.device

        def load() -> Any:
            import torch

            from core.families.work import keep_prompts
            from core.memory.work import keep_in_8_bits

            model = load_part(part, device, READ_AS if key.rounded else dtype)
            if part.name == "unet":
                keep_prompts(model)
            if part.name == "controlnet":
                check_weights(part, model)
            if self.plan.channels_last and part.weights:
                model.to(memory_format=torch.channels_last)
            if key.rounded:
                keep_in_8_bits(model, getattr(torch, dtype))
            return model

        size = part.parameters * (1 if key.rounded else BYTES[dtype])
        model = self.in_use.enter_context(self.models.use(key, size, load))
        if part.weights and str(next(model.parameters()).device) != device:
            model.to(device)  # it had made room for another
        return model

    def key(self, part: Part) -> Key:
        """Under which a part is kept for this plan."""
        return part.key._replace(rounded=self.plan.way.rounds_part(part.name))
