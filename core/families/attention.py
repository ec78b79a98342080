"""Attention that does not compute twice what cannot change: the prompt's keys and values hold for a whole run.

The same operations as diffusers' AttnProcessor2_0, so the same bits; diffusers projects the prompt anew in each step.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F  # noqa: N812 - the name all of torch's users know
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor


class KeptPromptAttention(AttnProcessor2_0):  # type: ignore[misc]
    """Cross-attention for one layer. What was projected is kept as long as the very same prompt tensor comes in."""

    def __init__(self) -> None:
        super().__init__()
        self._prompt: Tensor | None = None
        self._projected: tuple[Tensor, Tensor] | None = None

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, *args: Any, **options: Any
    ) -> Tensor:
        """hidden_states: (n, pixels, width); encoder_hidden_states: (n, tokens, prompt width)."""
        if encoder_hidden_states is not self._prompt or self._projected is None:
            heads = (len(encoder_hidden_states), -1, attn.heads, attn.to_k.out_features // attn.heads)
            self._prompt = encoder_hidden_states
            self._projected = (
                attn.to_k(encoder_hidden_states).view(heads).transpose(1, 2),
                attn.to_v(encoder_hidden_states).view(heads).transpose(1, 2),
            )
        key, value = self._projected
        query = attn.to_q(hidden_states).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        output: Tensor = attn.to_out[0](attended)
        return output

    def forget(self) -> None:
        self._prompt = self._projected = None


def keep_prompts(unet: Any) -> None:
    """Let the plain cross-attentions of a U-Net keep what they project from the prompt."""
    for name, module in unet.named_modules():
        if name.endswith("attn2") and _is_plain(module):
            module.set_processor(KeptPromptAttention())


def forget_prompts(denoiser: Any) -> None:
    """Drop what a run left behind, and with it the memory; also when weights have changed."""
    for layer in keeping_prompts(denoiser):
        layer.processor.forget()


def keeping_prompts(model: Any) -> list[Any]:
    """The layers of a model that keep what they projected."""
    return [m for m in model.modules() if isinstance(getattr(m, "processor", None), KeptPromptAttention)]


def _is_plain(attn: Any) -> bool:
    """Whether a layer uses none of the extras that AttnProcessor2_0 knows and this one leaves out."""
    extras = (attn.spatial_norm, attn.group_norm, attn.norm_cross, attn.norm_q, attn.norm_k)
    return (
        type(attn.processor) is AttnProcessor2_0
        and not any(extras)
        and not attn.residual_connection
        and attn.rescale_output_factor == 1
    )
