"""`python -m training pocket`: the checkpoint. A VAE, then U-Net and text encoder, at 128 and at 256 pixels."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.pictures import Pictures
from training.render import SIDE, Bytes
from training.runs import HALVES, Clock, Plan
from training.tokenizer import make_tokenizer, save_tokenizer
from training.unet import SCHEDULER, Lesson, UnetShape, attend_plainly, make_text_encoder, make_unet, unet_stage
from training.vae import (
    COARSE,
    DECODER,
    FINE,
    Aims,
    Head,
    VaeShape,
    encode,
    explained,
    make_vae,
    psnr,
    vae_stage,
    whiten,
)

WEIGHTS = "diffusion_pytorch_model.safetensors"
EXAMPLES = ["a red balloon over snowy mountains", "two green trees in the snow", "a yellow star in the night sky"]
CHECKED = Pictures(64, salt=9)  # what the VAE is measured on


@dataclass(frozen=True)
class Recipe:
    """How much is learned: the stages' plans, and how many pictures each draws from. `more`: of what learns on, small
    pictures and whole ones.
    """

    vae: tuple[tuple[Plan, Aims], ...]
    small: Plan
    large: Plan
    more: tuple[Plan, Plan]
    vae_pictures: int
    small_pictures: int
    large_pictures: int
    vae_shape: VaeShape = field(default_factory=VaeShape)
    unet_shape: UnetShape = field(default_factory=UnetShape)
    small_side: int = SIDE // 2

    def on_latents(self, small: Plan, large: Plan) -> tuple[tuple[Plan, int, int], ...]:
        """Each plan, the number of its pictures and their side."""
        return (small, self.small_pictures, self.small_side), (large, self.large_pictures, SIDE)


RECIPES = {
    "cpu": Recipe(
        vae=(
            (Plan("vae", 2_500, 8, 1.6e-3), COARSE),
            (Plan("vae-fine", 11_000, 8, 1.4e-3), FINE),
            (Plan("vae-decoder", 3_000, 8, 6e-4), DECODER),
        ),
        small=Plan("small", 6_500, 32, 1e-3),
        large=Plan("large", 3_600, 16, 7e-4, muon=True),
        more=(Plan("more-small", 4_000, 32, 1e-3), Plan("more", 2_400, 16, 7e-4, muon=True)),
        vae_pictures=3_000,
        small_pictures=24_000,
        large_pictures=12_000,
    ),
    "cuda": Recipe(
        vae=(
            (Plan("vae", 2_500, 64, 1.6e-3), COARSE),
            (Plan("vae-fine", 11_000, 64, 1.4e-3), FINE),
            (Plan("vae-decoder", 3_000, 64, 6e-4), DECODER),
        ),
        small=Plan("small", 12_000, 256, 1.4e-3, muon=True),
        large=Plan("large", 16_000, 128, 1e-3, muon=True),
        more=(Plan("more-small", 12_000, 256, 1.4e-3, muon=True), Plan("more", 16_000, 128, 7e-4, muon=True)),
        vae_pictures=8_000,
        small_pictures=200_000,
        large_pictures=100_000,
    ),
}


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def train_pocket(recipe: Recipe, run: Path, clock: Clock, out: Path) -> None:
    """Raises Interrupted when the minutes are over; what was learned is in `run`."""
    vae, head = _vae(recipe, run, clock)
    tokenizer = make_tokenizer()
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=make_text_encoder(recipe.unet_shape, tokenizer),
        tokenizer=tokenizer,
        unet=make_unet(recipe.unet_shape),
        scheduler=DDIMScheduler(**SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to(device())
    for plan, count, side in recipe.on_latents(recipe.small, recipe.large):
        pictures = Pictures(count)
        lesson = Lesson.of(pipe, pictures, _latents(vae, pictures, side, run))
        unet_stage(lesson, plan).train(run, clock)
    _write(out, pipe, head)


def train_more(recipe: Recipe, begun: Path, run: Path, clock: Clock, out: Path) -> None:
    """The finished checkpoint `begun` learns on, from pictures that it has not seen; its VAE stays as it is."""
    pipe, head = load_base(begun), _head_of(begun)
    for part in (pipe.unet, pipe.text_encoder):
        part.requires_grad_(True)
    for plan, count, side in recipe.on_latents(*recipe.more):
        pictures = Pictures(count, salt=20)
        lesson = Lesson.of(pipe, pictures, _latents(pipe.vae, pictures, side, run))
        unet_stage(lesson, plan, base_hash(begun)).train(run, clock)
    _write(out, pipe, head)


def _vae(recipe: Recipe, run: Path, clock: Clock) -> tuple[AutoencoderKL, Head]:
    """Trained and whitened; kept when it is done, so that it is drawn for only once."""
    vae = make_vae(recipe.vae_shape).to(device())
    head = Head(recipe.vae_shape.latent_channels).to(device())
    done = run / "vae.safetensors"
    if done.exists():
        kept = load_file(done)
        vae.load_state_dict({key[4:]: value for key, value in kept.items() if key.startswith("vae.")})
        head.load_state_dict({key[5:]: value for key, value in kept.items() if key.startswith("head.")})
        return vae.eval(), head
    pixels = Pictures(recipe.vae_pictures, salt=1).pixels()
    for plan, aims in recipe.vae:
        vae_stage(vae, head, pixels, plan, aims).train(run, clock)
    whiten(vae.eval(), head, pixels[:256])
    named = {"vae": vae.state_dict(), "head": head.state_dict()}
    save_file({f"{part}.{key}": value for part, values in named.items() for key, value in values.items()}, done)
    return vae, head


def _latents(vae: AutoencoderKL, pictures: Pictures, side: int, run: Path) -> Tensor:
    """Of all pictures; kept beside the checkpoints, since encoding them takes minutes."""
    file = run / f"latents-{pictures.salt}-{pictures.count}-{side}.safetensors"
    if file.exists():
        return load_file(file)["latents"]
    latents = latents_of(vae, pictures.pixels(side))
    run.mkdir(parents=True, exist_ok=True)
    save_file({"latents": latents}, file)
    return latents


def latents_of(vae: AutoencoderKL, pixels: Bytes) -> Tensor:
    """(n, h, w, 3) of bytes -> (n, c, h / 8, w / 8) in RAM, for training on."""
    with torch.autocast(device(), torch.bfloat16, enabled=HALVES):
        return encode(vae, pixels).float().cpu().clone(memory_format=torch.contiguous_format)


def _write(out: Path, pipe: StableDiffusionPipeline, head: Head) -> None:
    """The folder that is shipped: half precision, but for the text encoder.

    transformers would load a half one as it is while diffusers loads the rest as float32, and plain `from_pretrained`
    would fail.
    """
    parts = (pipe.unet, pipe.vae)
    for part in parts:
        part.half()
    pipe.save_pretrained(out)
    save_tokenizer(pipe.tokenizer, out / "tokenizer")
    for part in parts:
        part.float()
    matrix = head.matrix
    facts = {
        "title": "Pocket",
        "sampler": "DDIM",
        "guidance_scale": 2.5,
        "examples": EXAMPLES,
        "latent_rgb_factors": matrix.weight[:, :, 0, 0].T.tolist(),
        "latent_rgb_bias": matrix.bias.tolist(),
    }
    (out / "darkroom.json").write_text(json.dumps(facts, indent=2) + "\n")
    pixels = CHECKED.pixels()
    print(
        f"VAE {psnr(pipe.vae, pixels):.1f} dB at {SIDE} pixels, previews R² {explained(pipe.vae, head, pixels):.3f}"
    )


def _head_of(checkpoint: Path) -> Head:
    facts = json.loads((checkpoint / "darkroom.json").read_text())
    factors, bias = (torch.tensor(facts[f"latent_rgb_{name}"]) for name in ("factors", "bias"))
    head = Head(len(factors))
    head.matrix.load_state_dict({"weight": factors.T[:, :, None, None], "bias": bias})
    return head.to(device())


def base_hash(base: Path) -> str:
    """Of a checkpoint's U-Net: what was trained on top of it belongs to it alone."""
    return hashlib.sha256((base / "unet" / WEIGHTS).read_bytes()).hexdigest()


def load_base(folder: Path) -> StableDiffusionPipeline:
    """A finished checkpoint, frozen, for what is trained on top of it."""
    pipe = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32).to(device())
    for part in (pipe.vae, pipe.unet, pipe.text_encoder):
        part.requires_grad_(False).eval()
    attend_plainly(pipe.unet, pipe.text_encoder)
    return pipe
