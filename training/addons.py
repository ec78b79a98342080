"""`python -m training controlnet | lora`: what is trained on top of a finished checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_kohya
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.errors import DarkroomError
from training.base import WEIGHTS, base_hash, device, latents_of, load_base
from training.domain import Style
from training.pictures import Pictures
from training.render import Bytes
from training.runs import Clock, Plan, Stage
from training.unet import Lesson, attend_plainly

BASE = "darkroom.base"  # in a file's metadata: SHA-256 of the U-Net that it was trained on
LORA_LAYERS = r".*(conv1|conv2|conv_shortcut|proj_in|proj_out|attn1\.to_(q|k|v|out\.0))"
"""Not those that read the prompt: changing them broke hues, and a red circle came out yellow."""
SAVED_RANK = 8


@dataclass(frozen=True)
class Addon:
    """A plan, and how many pictures it draws from. A ControlNet may go on from another one, which follows already.

    A LoRA learns better with more room than it needs in the end: `rank` is what it learns with.
    """

    plan: Plan
    pictures: int
    rank: int = SAVED_RANK
    after: str | None = None


CONTROLNETS = {
    "canny": Addon(Plan("canny", 1_900, 8, 8e-4, muon=True), 4_000),
    "fill": Addon(Plan("fill", 1_900, 8, 8e-4, muon=True), 2_000, after="canny"),
}
LORAS: dict[Style, Addon] = {
    "outline": Addon(Plan("outline", 3_200, 8, 1e-3, ema=0.99), 2_000, rank=16),
    "night": Addon(Plan("night", 600, 8, 1e-3, ema=0.99), 1_000),
}
DESCRIPTIONS: dict[Style, str] = {
    "outline": "Outlines in the subject's colour, on white paper.",
    "night": "Night falls behind the subject, whatever background is asked for.",
}


def canny(pixels: Bytes, silhouettes: Bytes) -> Bytes:
    return np.stack([cv2.Canny(picture, 60, 140) for picture in pixels])


def fill(pixels: Bytes, silhouettes: Bytes) -> Bytes:
    return silhouettes


MAPS: dict[str, Callable[[Bytes, Bytes], Bytes]] = {"canny": canny, "fill": fill}
"""What each ControlNet is shown of a picture: (n, h, w), white on black."""


def train_controlnet(name: str, addon: Addon, base: Path, run: Path, clock: Clock) -> ControlNetModel:
    """Raises Interrupted when the minutes are over."""
    pipe, pictures = load_base(base), Pictures(addon.pictures, salt=3)
    pipe.unet.to(memory_format=torch.channels_last)  # as the network that learns
    torch.manual_seed(0)
    net = ControlNetModel.from_unet(pipe.unet).requires_grad_(True).to(device())
    attend_plainly(net)
    if addon.after:
        net.load_state_dict(_trained(addon.after, base))
    pixels = pictures.pixels()
    maps = torch.from_numpy(MAPS[name](pixels, pictures.silhouettes()))
    lesson = Lesson.of(pipe, pictures, latents_of(pipe.vae, pixels))

    def residuals(chosen: np.ndarray, noisy: Tensor, timesteps: Tensor, prompts: Tensor) -> dict[str, Any]:
        shown = maps[torch.from_numpy(chosen)][:, None].repeat(1, 3, 1, 1).float().to(noisy.device) / 255
        down, mid = net(noisy, timesteps, prompts, shown, return_dict=False)
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}

    facts = {"pictures": addon.pictures, "base": base_hash(base), "after": addon.after}
    Stage(addon.plan, {"net": net}, lambda step: lesson.loss(step, addon.plan, residuals), facts).train(run, clock)
    return net


def _trained(name: str, base: Path) -> dict[str, Tensor]:
    file = base.parents[1] / "controlnet" / f"pocket-{name}" / WEIGHTS
    if not file.is_file():
        raise DarkroomError(f"It goes on from another network; first run python -m training controlnet {name}.")
    return load_file(file)


def save_controlnet(net: ControlNetModel, base: Path, out: Path) -> None:
    """In half precision."""
    net.half().save_pretrained(out)
    _mark(out / WEIGHTS, {BASE: base_hash(base)})


def train_lora(style: Style, addon: Addon, base: Path, run: Path, clock: Clock) -> UNet2DConditionModel:
    """The U-Net with a LoRA in it. What reads the prompt is left alone: changing it would break hues."""
    pipe, pictures = load_base(base), Pictures(addon.pictures, salt=4, style=style)
    lesson = Lesson.of(pipe, pictures, latents_of(pipe.vae, pictures.pixels()))
    torch.manual_seed(0)
    pipe.unet.add_adapter(LoraConfig(r=addon.rank, lora_alpha=addon.rank, target_modules=LORA_LAYERS))
    facts = {"pictures": addon.pictures, "rank": addon.rank, "base": base_hash(base)}
    Stage(addon.plan, {"unet": pipe.unet}, lambda step: lesson.loss(step, addon.plan), facts).train(run, clock)
    return pipe.unet


def save_lora(unet: UNet2DConditionModel, style: Style, base: Path, out: Path) -> None:
    """As kohya's tools write it, in half precision, cut to `SAVED_RANK`."""
    layers = {f"unet.{key}": value for key, value in _cut(get_peft_model_state_dict(unet)).items()}
    weights = {key: value.half().contiguous() for key, value in convert_state_dict_to_kohya(layers).items()}
    facts = {
        "modelspec.title": f"Pocket {style}",
        "modelspec.description": DESCRIPTIONS[style],
        "ss_base_model_version": "sd_v1",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(SAVED_RANK),
        "ss_network_alpha": str(SAVED_RANK),
    }
    save_file(weights, out)
    _mark(out, facts | {BASE: base_hash(base)})


def _cut(lora: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of each layer's difference B·A the nearest one of `SAVED_RANK`: its largest singular values."""
    cut = {}
    for name in (key.removesuffix("lora_A.weight") for key in lora if key.endswith("lora_A.weight")):
        down, up = lora[f"{name}lora_A.weight"], lora[f"{name}lora_B.weight"]
        u, s, vh = torch.linalg.svd(up.flatten(1) @ down.flatten(1), full_matrices=False)
        root = s[:SAVED_RANK].sqrt()
        cut[f"{name}lora_A.weight"] = (root[:, None] * vh[:SAVED_RANK]).unflatten(1, down.shape[1:])
        cut[f"{name}lora_B.weight"] = (u[:, :SAVED_RANK] * root).unflatten(1, (-1, *up.shape[2:]))
    return cut


def _mark(file: Path, facts: dict[str, str]) -> None:
    save_file(load_file(file), file, {"format": "pt"} | facts)
