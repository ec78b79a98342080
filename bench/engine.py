"""The engine against plain diffusers: the same request, the same bits, the time of both in turns."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL.Image import Image
from transformers import CLIPTextModel, CLIPTokenizer

from bench.measure import compare
from core import Engine, Finished, GenerationRequest, Settings
from core.settings import ROOT

POCKET = ROOT / "models" / "checkpoints" / "pocket"
PROMPT = "a red balloon over snowy mountains"


def main(pairs: int) -> None:
    torch.set_num_threads(Engine().machine().threads)
    print("ratio: median (middle half)   seconds of both; below 1.000 the first is faster\n")
    _table("pocket, 256 px, 20 steps", ROOT / "models", "pocket", GenerationRequest(prompt=PROMPT, seed=7), pairs)
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder)
        save_middle_size(models / "checkpoints" / "middle")
        request = GenerationRequest(prompt=PROMPT, seed=7, steps=4, width=256, height=256, sampler="DDIM")
        _table("middle size with random weights, 256 px, 4 steps", models, "middle", request, pairs)


def _table(title: str, models: Path, name: str, request: GenerationRequest, pairs: int) -> None:
    engine = Engine(Settings(models=models))
    blind = Engine(Settings(models=models, previews=False))
    resolved = engine.library.resolve(request.replace(checkpoint=name))
    pipeline = StableDiffusionPipeline.from_pretrained(models / "checkpoints" / name)
    pipeline.set_progress_bar_config(disable=True)
    same = np.array_equal(np.asarray(draw(engine, resolved)), np.asarray(plain(pipeline, resolved)))
    ours, quiet = (lambda: draw(engine, resolved)), (lambda: draw(blind, resolved))
    prompts = (f"{PROMPT} {k}" for k in itertools.count())
    fresh: Callable[[], object] = lambda: draw(engine, resolved.replace(prompt=next(prompts)))  # noqa: E731
    millions = sum(parameter.numel() for parameter in pipeline.unet.parameters()) / 1e6
    print(f"{title}, U-Net of {millions:.0f} M parameters: pixels {'equal' if same else 'NOT EQUAL'}")
    print(f"  engine / diffusers          {compare(ours, lambda: plain(pipeline, resolved), pairs, 'diffusers')}")
    print(f"  engine / engine (noise)     {compare(ours, ours, pairs, 'A/A')}")
    print(f"  previews on / off           {compare(ours, quiet, pairs, 'previews')}")
    print(f"  same prompt / a new one     {compare(ours, fresh, pairs, 'prompt')}")
    print(f"  prompt encoded / from cache {_prompt_ratio(engine, resolved, pairs):.0f} ×\n")


def draw(engine: Engine, request: GenerationRequest) -> Image:
    *_, finished = engine.generate(request)
    assert isinstance(finished, Finished)
    return finished.images[0]


def plain(pipeline: StableDiffusionPipeline, request: GenerationRequest) -> Image:
    image: Image = pipeline(
        request.prompt,
        negative_prompt=request.negative_prompt,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance_scale,
        width=request.width,
        height=request.height,
        generator=torch.Generator().manual_seed(request.seed or 0),
    ).images[0]
    return image


def _prompt_ratio(engine: Engine, request: GenerationRequest, pairs: int) -> float:
    """Seconds to encode the two prompts of a run, over seconds to find them in the cache."""
    from core.diffusion import PromptCache
    from core.families.work import Components, StableDiffusion
    from core.prompts import Time, parse

    folder = engine.settings.models / "checkpoints" / str(request.checkpoint)
    parts = Components(
        denoiser=None,
        vae=None,
        text_encoders=(CLIPTextModel.from_pretrained(folder / "text_encoder").eval(),),
        tokenizers=(CLIPTokenizer.from_pretrained(folder / "tokenizer"),),
        scheduler_config={},
        options={},
    )
    model, cache = StableDiffusion(parts), PromptCache()
    texts = (parse(request.prompt).at(Time(0, request.steps)),)
    encode = lambda: model.encode_prompt(texts, 1)  # noqa: E731
    return compare(encode, lambda: cache.get("prompt", encode), 10 * pairs, "prompt").median


def save_middle_size(folder: Path) -> None:
    """A Stable Diffusion of ordinary build with random weights; text encoder and VAE are the pocket's."""
    torch.manual_seed(0)
    StableDiffusionPipeline(
        unet=UNet2DConditionModel(
            sample_size=32,
            block_out_channels=(128, 256, 384),
            layers_per_block=2,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=128,
        ),
        vae=AutoencoderKL.from_pretrained(POCKET / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(POCKET / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(POCKET / "tokenizer"),
        scheduler=DDIMScheduler.from_pretrained(POCKET / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
