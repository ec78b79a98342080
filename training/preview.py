"""Fit the matrix that shows a model's latents as a picture, and write it into the model's darkroom.json.

    python -m training.preview pocket

Least squares over pictures that the model draws from the prompts below: the mean colour of each 8 × 8 patch against
the latent that the VAE gives for the patch.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray

from core import Engine, Finished, GenerationRequest
from core.settings import ROOT
from training import domain

COLOURS = tuple(domain.COLOURS)
SUBJECTS = ("circle", "heart", "house", "tree", "balloon", "star", "boat")
SCENES = ("snowy mountains", "the night sky", "a sunset", "the sea", "a meadow")
Array = NDArray[np.float64]


def prompts(count: int) -> list[str]:
    plain = [
        f"a {a} {SUBJECTS[(i + j) % 7]} on a {b} background"
        for i, a in enumerate(COLOURS)
        for j, b in enumerate(COLOURS)
    ]
    scenes = [f"a {a} {b} over {c}" for a, b, c in zip(COLOURS * 7, SUBJECTS * 10, SCENES * 14, strict=True)]
    both = [prompt for pair in zip(plain, scenes, strict=False) for prompt in pair]
    return both[:: max(1, len(both) // count)][:count]


def pairs(engine: Engine, name: str, count: int) -> tuple[Array, Array]:
    """Latents with a one appended (m, c + 1) and the mean colours of their patches (m, 3) in −1 … 1."""
    vae = AutoencoderKL.from_pretrained(engine.settings.models / "checkpoints" / name / "vae").eval()
    latents, colours = [], []
    for seed, prompt in enumerate(prompts(count)):
        for event in engine.generate(GenerationRequest(prompt=prompt, checkpoint=name, seed=seed)):
            if isinstance(event, Finished):
                pixels = torch.from_numpy(np.array(event.images[0])).permute(2, 0, 1)[None] / 127.5 - 1
                with torch.inference_mode():
                    latent = vae.encode(pixels).latent_dist.mean[0] * vae.config.scaling_factor
                patches = torch.nn.functional.avg_pool2d(pixels, pixels.shape[-1] // latent.shape[-1])[0]
                latents.append(latent.flatten(1).T.numpy())
                colours.append(patches.flatten(1).T.numpy())
    x = np.concatenate(latents).astype(np.float64)
    return np.column_stack([x, np.ones(len(x))]), np.concatenate(colours).astype(np.float64)


def fit(x: Array, y: Array) -> tuple[Array, float]:
    """The matrix (c + 1, 3), and the share of the colours' variance it explains on every fourth pair, held out."""
    held = np.arange(len(x)) % 4 == 0
    matrix = np.linalg.lstsq(x[~held], y[~held], rcond=None)[0]
    residual = y[held] - x[held] @ matrix
    return matrix, float(1 - residual.var() / y[held].var())


def write(card: Path, matrix: Array) -> None:
    facts = json.loads(card.read_text()) if card.exists() else {}
    facts["latent_rgb_factors"] = matrix[:-1].round(4).tolist()
    facts["latent_rgb_bias"] = matrix[-1].round(4).tolist()
    card.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.preview", description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--pictures", type=int, default=40)
    options = parser.parse_args()
    matrix, explained = fit(*pairs(Engine(), options.checkpoint, options.pictures))
    write(ROOT / "models" / "checkpoints" / options.checkpoint / "darkroom.json", matrix)
    print(f"R² {explained:.3f} on held-out patches of {options.pictures} pictures")


if __name__ == "__main__":
    main()
