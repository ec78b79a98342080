"""The VAE: pictures to latents an eighth as wide, and back. A linear head beside it reads colours off them."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from training.pictures import to_tensor
from training.render import Bytes
from training.runs import Plan, Stage, batch_of, batches, generator

SALT = 101
FACTOR = 8  # pixels a latent is wide
SMALL, LARGE, LARGE_SHARE = 64, 128, 0.25  # sides of the crops, and how many steps see the large ones
RECOLOURED, BLEND = 0.35, 0.7  # share of the crops in other colours, and how far these go at most


@dataclass(frozen=True)
class VaeShape:
    """norm_groups is 2: eight groups on 16 channels cannot pass a flat colour."""

    channels: tuple[int, ...] = (16, 32, 64, 128)
    norm_groups: int = 2
    latent_channels: int = 4


@dataclass(frozen=True)
class Aims:
    """What a stage is after. `head`: how much colours must be readable off the latents; `noise`: of the latents' own
    spread, at most, what the decoder must bear; `squares`: how much large errors count; `choices`: of so many crops
    the one with most in it is looked at; `decodes`: the encoder stays as it is, and so do the latents.
    """

    salt: int = SALT
    head: float = 0.5
    noise: float = 0.15
    squares: float = 0.0
    choices: int = 1
    decodes: bool = False


COARSE = Aims()
FINE = Aims(salt=SALT + 1, head=0.01, noise=0.04, squares=10.0, choices=3)
"""Colours that are readable to the last per cent take three of four channels: edges want some of that."""
DECODER = Aims(salt=SALT + 2, head=0.0, noise=0.02, squares=10.0, choices=3, decodes=True)


class Head(nn.Module):
    """Latents -> the mean colours of their patches; its matrix is what previews are made with."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.matrix = nn.Conv2d(channels, 3, 1)

    def forward(self, latents: Tensor) -> Tensor:
        return self.matrix(latents)


def make_vae(shape: VaeShape, seed: int = SALT) -> AutoencoderKL:
    torch.manual_seed(seed)
    depth = len(shape.channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * depth,
        up_block_types=("UpDecoderBlock2D",) * depth,
        block_out_channels=shape.channels,
        latent_channels=shape.latent_channels,
        norm_num_groups=shape.norm_groups,
        mid_block_add_attention=False,
        scaling_factor=1.0,
        sample_size=256,
    )


def vae_stage(vae: AutoencoderKL, head: Head, pixels: Bytes, plan: Plan, aims: Aims = COARSE) -> Stage:
    """Crops of pictures; L1 on pixels, on their gradients and on patches, and latents that stay near zero."""

    def loss(step: int) -> Tensor:
        source = generator(aims.salt, step)
        crops = _recoloured(_crops(pixels, step, plan.batch, aims), source).to(vae.device)
        mean = vae.encode(crops).latent_dist.mean
        strength = aims.noise * torch.rand((), generator=source) * mean.detach().std()
        noise = torch.randn(mean.shape, generator=source).to(mean.device)
        drawn = vae.decode(mean + strength.to(mean.device) * noise).sample
        patches = avg_pool2d(crops, FACTOR)
        seen = (
            (drawn - crops).abs().mean()
            + _gradients(drawn, crops)
            + (avg_pool2d(drawn, FACTOR) - patches).abs().mean()
        )
        if aims.squares:
            seen = seen + aims.squares * (drawn - crops).square().mean()
        return seen + aims.head * (head(mean) - patches).abs().mean() + 1e-3 * mean.square().mean()

    config = {k: v for k, v in vae.config.items() if not k.startswith("_")}
    facts = {"pictures": len(pixels), "config": config, "aims": asdict(aims)}
    for part in (vae.encoder, vae.quant_conv, head):
        part.requires_grad_(not aims.decodes)
    return Stage(plan, {"vae": vae, "head": head}, loss, facts)


def _crops(pixels: Bytes, step: int, batch: int, aims: Aims) -> Tensor:
    rng = np.random.default_rng([aims.salt, step])
    side, size = (LARGE, max(1, batch // 3)) if rng.random() < LARGE_SHARE else (SMALL, batch)
    side = min(side, pixels.shape[1])
    chosen = batch_of(step, len(pixels), size, aims.salt)
    corners = rng.integers(0, pixels.shape[1] - side + 1, (aims.choices, size, 2))
    crops = [
        max((pixels[k, y : y + side, x : x + side] for y, x in corners[:, place]), key=np.std)
        for place, k in enumerate(chosen)
    ]
    return to_tensor(np.stack(crops))


def _recoloured(crops: Tensor, source: torch.Generator) -> Tensor:
    """Some of them with channels exchanged and blended with one colour: pale, dark or tinted.

    A VAE that saw only the ten colours of the domain draws none between them, in no style and from no photograph.
    """
    count = len(crops)
    order = torch.rand(count, 3, generator=source).argsort(1)
    exchanged = crops.gather(1, order[:, :, None, None].expand_as(crops))
    colour = 2 * torch.rand(count, 3, 1, 1, generator=source) - 1
    share = BLEND * torch.rand(count, 1, 1, 1, generator=source)
    chosen = torch.rand(count, 1, 1, 1, generator=source) < RECOLOURED
    return torch.where(chosen, exchanged.lerp(colour, share), crops)


def _gradients(drawn: Tensor, crops: Tensor) -> Tensor:
    return (drawn.diff(dim=-1) - crops.diff(dim=-1)).abs().mean() + (
        drawn.diff(dim=-2) - crops.diff(dim=-2)
    ).abs().mean()


@torch.inference_mode()
def encode(vae: AutoencoderKL, pixels: Bytes, batch: int = 16) -> Tensor:
    """(n, h, w, 3) of bytes -> latents (n, c, h / 8, w / 8)."""
    parts = [
        vae.encode(to_tensor(pixels[part]).to(vae.device)).latent_dist.mean for part in batches(len(pixels), batch)
    ]
    return torch.cat(parts) * vae.config.scaling_factor


@torch.no_grad()
def whiten(vae: AutoencoderKL, head: Head, pixels: Bytes) -> None:
    """Give the latents mean 0 and covariance 1 by folding a matrix into the convolutions around them.

    Afterwards encoding draws nothing at random: the variance of the VAE's distribution is as good as 0.
    """
    latents = encode(vae, pixels).clone().movedim(1, -1).flatten(0, 2)
    mean, covariance = latents.mean(0), torch.cov(latents.T)
    values, vectors = torch.linalg.eigh(covariance)
    matrix = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    back, channels = torch.linalg.inv(matrix), len(mean)
    quant, post, colours = vae.quant_conv, vae.post_quant_conv, head.matrix
    moments, offset = quant.weight[:channels, :, 0, 0].clone(), quant.bias[:channels].clone()
    quant.weight.zero_()
    quant.weight[:channels, :, 0, 0] = matrix @ moments
    quant.bias[:channels], quant.bias[channels:] = matrix @ (offset - mean), -30.0
    for conv in (post, colours):
        flat = conv.weight[:, :, 0, 0].clone()
        conv.bias += flat @ mean
        conv.weight[:, :, 0, 0] = flat @ back


@torch.inference_mode()
def psnr(vae: AutoencoderKL, pixels: Bytes) -> float:
    """Of pictures that went through the VAE, in dB."""
    errors = [
        (vae.decode(encode(vae, pixels[part])).sample.clamp(-1, 1) - to_tensor(pixels[part]).to(vae.device)) / 2
        for part in batches(len(pixels), 8)
    ]
    return float(-10 * torch.cat(errors).square().mean().log10())


@torch.inference_mode()
def explained(vae: AutoencoderKL, head: Head, pixels: Bytes) -> float:
    """R²: the share of the variance of patches' colours that the head reads off the latents."""
    patches = avg_pool2d(to_tensor(pixels), FACTOR)
    wrong = patches - head(encode(vae, pixels)).cpu()
    centred = patches - patches.mean((0, 2, 3), keepdim=True)
    return float(1 - wrong.square().sum() / centred.square().sum())
