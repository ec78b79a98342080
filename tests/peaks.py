"""How much memory a forward pass holds at its peak, counted without a device: shapes on "meta" and no numbers."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
}
SD1 = {"cross_attention_dim": 768, "attention_head_dim": 8}
SDXL = {
    "cross_attention_dim": 2048,
    "attention_head_dim": [5, 10, 20],
    "use_linear_projection": True,
    "block_out_channels": [320, 640, 1280],
    "transformer_layers_per_block": [1, 2, 10],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SD35 = {
    "num_layers": 24,
    "num_attention_heads": 24,
    "caption_projection_dim": 1536,
    "pos_embed_max_size": 384,
    "dual_attention_layers": tuple(range(13)),
    "qk_norm": "rms_norm",
}
"""The published shapes, of 3.5 medium; what is not said is as diffusers has it."""


class _FlashAttention(TorchFunctionMode):
    """Attention as the fused kernels of GPUs and CPUs do it: nothing is held but its output."""

    def __torch_function__(self, call: Any, types: Any, args: Any = (), options: Any = None) -> Any:
        if call is torch.nn.functional.scaled_dot_product_attention:
            return torch.empty_like(args[0] if args else options["query"])
        return call(*args, **(options or {}))


class _Live(TorchDispatchMode):
    """Adds up the storages that operations make, for as long as each is alive."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), options: Any = None) -> Any:
        made = call(*args, **(options or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return
        self._alive.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size


@torch.inference_mode()
def peak(forward: Callable[[], object]) -> int:
    """Bytes."""
    with _FlashAttention(), _Live() as live:
        forward()
    return live.peak


def unet_peak(config: dict[str, Any], batch: int, side: int) -> tuple[int, int]:
    """(parameters of a U-Net, values that it holds for `batch` latents of side × side) with float32."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
        prompt = torch.empty(batch, 77, unet.config.cross_attention_dim)
        sizes = {"text_embeds": torch.empty(batch, 1280), "time_ids": torch.empty(batch, 6)}
        options = {"added_cond_kwargs": sizes} if unet.config.addition_embed_type else {}
        latents = torch.empty(batch, 4, side, side)
        size = peak(lambda: unet(latents, torch.empty(1), prompt, **options, return_dict=False))
    return unet.num_parameters(), size // 4


def transformer_peak(config: dict[str, Any], batch: int, side: int) -> tuple[int, int]:
    """The same of a transformer of Stable Diffusion 3."""
    with torch.device("meta"):
        transformer = SD3Transformer2DModel(**config)
        prompt, pooled = torch.empty(batch, 77 + 256, 4096), torch.empty(batch, 2048)
        latents = torch.empty(batch, 16, side, side)
        size = peak(lambda: transformer(latents, prompt, pooled, torch.empty(batch), return_dict=False))
    positions = transformer.pos_embed.pos_embed.numel()  # a buffer: as good as a weight, and met again on the way
    return transformer.num_parameters() + positions, size // 4 - positions


def flux_peak(batch: int, side: int) -> tuple[int, int]:
    """The same of FLUX.1 dev's transformer, for latents of side × side."""
    with torch.device("meta"):
        transformer, patches = FluxTransformer2DModel(guidance_embeds=True), (side // 2) ** 2
        prompt, pooled = torch.empty(batch, 512, 4096), torch.empty(batch, 768)
        places, ids, told = torch.empty(patches, 3), torch.empty(512, 3), torch.empty(batch)
        packed = torch.empty(batch, patches, 64)
        size = peak(lambda: transformer(packed, prompt, pooled, told, places, ids, told, return_dict=False))
    return transformer.num_parameters(), size // 4


def vae_peak(side: int, **changes: Any) -> tuple[int, int]:
    """The same of the VAE of Stable Diffusion, for decoding side × side pixels."""
    with torch.device("meta"):
        vae = AutoencoderKL(**VAE | changes)
        size = peak(
            lambda: vae.decode(torch.empty(1, vae.config.latent_channels, side // 8, side // 8), return_dict=False)
        )
    return vae.num_parameters(), size // 4
