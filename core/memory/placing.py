"""Carries a plan of memory out: which parts stay on the device, which come only to work, which are streamed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from accelerate.utils import send_to_device
from diffusers.hooks import HookRegistry, apply_group_offloading
from diffusers.models.attention_processor import AttnProcessor2_0

from core.families.work import Components, keeping_prompts
from core.memory.planning import Way

Unit = tuple[Any, ...]
"""Modules that work together, so that they come and go together."""
STREAMING_HOOKS = ("group_offloading", "layer_execution_tracker", "lazy_prefetch_group_offloading")


@dataclass(frozen=True)
class Placed:
    """The modules of a run, by the names that a plan's `leaving` has for them."""

    encoders: Sequence[Any]
    denoiser: Any
    vae: Any
    nets: Sequence[Any] = ()
    refiner: Any | None = None

    @classmethod
    def of(cls, parts: Components, nets: Sequence[Any], refiner: Components | None) -> Placed:
        encoders = (*parts.text_encoders, *(refiner.text_encoders if refiner else ()))
        return cls(encoders, parts.denoiser, parts.vae, nets, refiner and refiner.denoiser)

    @property
    def denoisers(self) -> list[Any]:
        return [self.denoiser, *([self.refiner] if self.refiner else [])]

    def units(self) -> list[tuple[str, Unit]]:
        """Each text encoder works alone, U-Net and ControlNets in the same step, a refiner after them."""
        return [
            *(("text", (encoder,)) for encoder in self.encoders),
            *(("unet", (denoiser, *nets)) for denoiser, nets in zip(self.denoisers, (self.nets, ()), strict=False)),
            ("vae", (self.vae,)),
        ]


@contextmanager
def placed(modules: Placed, way: Way, device: str) -> Iterator[None]:
    """While it is open every module runs on `device`; where it waits is as `way` says."""
    turn = _Turn(device)
    with ExitStack() as undo:
        for name, unit in modules.units():
            for module in unit:
                if name in way.streams:
                    undo.enter_context(_streamed(module, device))
                elif name in way.leaving:
                    undo.enter_context(_hooked(module, turn, unit))
                    # networks of SD 3.5 ask for this part of the transformer before the whole
                    if isinstance(patches := getattr(module, "pos_embed", None), torch.nn.Module):
                        undo.enter_context(_hooked(patches, turn, unit))
                else:
                    module.to(device)
        for denoiser in modules.denoisers:
            alone = denoiser.register_forward_pre_hook(lambda module, _: turn.let_go_of_others(module))
            undo.callback(alone.remove)
        undo.callback(turn.give_to, ())
        yield


@dataclass
class _Turn:
    """Of the units that come and go, one is on the device: `holder`."""

    device: str
    holder: Unit = ()
    _visits: ExitStack = field(default_factory=ExitStack)

    def give_to(self, unit: Unit) -> None:
        if self.holder is unit:
            return
        self._visits.close()
        empty_caches()
        for module in unit:
            self._visits.enter_context(_visiting(module, self.device))
        self.holder = unit

    def let_go_of_others(self, module: Any) -> None:
        """For a module that stays, or is streamed: whoever had the device for itself leaves it."""
        if module not in self.holder:
            self.give_to(())


class _Comes(ModelHook):  # type: ignore[misc]
    """Before its module works, `unit` has its turn."""

    def __init__(self, turn: _Turn, unit: Unit) -> None:
        self._turn, self._unit = turn, unit

    def pre_forward(self, module: Any, *args: Any, **options: Any) -> tuple[Any, Any]:
        self._turn.give_to(self._unit)
        return send_to_device(args, self._turn.device), send_to_device(options, self._turn.device)


@contextmanager
def _visiting(module: Any, device: str) -> Iterator[None]:
    """`module` on `device`. What it has there is dropped afterwards, not copied back: its weights waited in RAM."""
    module.to("cpu")
    waiting = module.state_dict()
    module.to(device)
    try:
        yield
    finally:
        module.load_state_dict(waiting, assign=True)
        module.to("cpu")  # buffers that no state dict holds


@contextmanager
def _hooked(module: Any, turn: _Turn, unit: Unit) -> Iterator[None]:
    add_hook_to_module(module, _Comes(turn, unit))
    try:
        yield
    finally:
        remove_hook_from_module(module)


@contextmanager
def _streamed(module: Any, device: str) -> Iterator[None]:
    """Each layer's weights are on the device only while it works; the next ones are fetched meanwhile.

    diffusers fetches in the order of the first step, in which every layer must run in the later ones too: attention
    that keeps what it projected from the prompt would leave some out.
    """
    keeping = {layer: layer.processor for layer in keeping_prompts(module)}
    for layer in keeping:
        layer.set_processor(AttnProcessor2_0())
    on_gpu = device.startswith("cuda")
    module.to("cpu")
    apply_group_offloading(module, torch.device(device), offload_type="leaf_level", use_stream=on_gpu)
    try:
        yield
    finally:
        registry = HookRegistry.check_if_exists_or_initialize(module)
        for name in STREAMING_HOOKS:
            registry.remove_hook(name, recurse=True)
        module.to("cpu")
        for layer, processor in keeping.items():
            layer.set_processor(processor)


def empty_caches() -> None:
    """Give memory that torch keeps for later back to the device."""
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()
    if torch.cuda.is_available():  # elsewhere there is no such cache, and torch 2.13 crashes looking for it
        torch.accelerator.empty_host_cache()
