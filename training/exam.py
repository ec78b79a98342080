"""What a finished model, ControlNet or LoRA is worth: pictures by the engine, looked at by the judge."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from core import Control, Engine, Finished, GenerationRequest, Lora, Settings
from core.errors import CheckpointError
from training.addons import MAPS
from training.captions import plain_caption
from training.domain import PLAIN, Scene, Style
from training.judge import Judge, as_bytes, cases, own_score, score, table
from training.measures import daylight, edge_f1, filled, overlap, silhouette
from training.pictures import Pictures

SEEDS = 20
STYLE_MEASURES = {"outline": (filled, 0.7), "night": (daylight, 0.7)}
"""What a style makes smaller, and to which share of the base's value at least."""


def engine_for(checkpoint: Path) -> tuple[Engine, str]:
    """An engine whose models' folder holds `checkpoint`, and its name there. Raises CheckpointError if it is none."""
    folder = checkpoint.resolve()
    engine = Engine(Settings(models=folder.parent.parent, previews=False))
    found = [known for known in engine.library.checkpoints() if known.name == folder.name]
    if folder.parent.name != "checkpoints" or not found:
        raise CheckpointError(f"{checkpoint}: is no checkpoint; give a folder in models/checkpoints.")
    if found[0].problem:
        raise CheckpointError(f"{checkpoint}: cannot be used: {found[0].problem}.")
    return engine, found[0].name


def draw(engine: Engine, requests: Sequence[GenerationRequest]) -> Iterator[Image.Image]:
    for request in tqdm(requests, leave=False):
        *_, finished = engine.generate(request)
        assert isinstance(finished, Finished)
        yield finished.images[0]


def examine_checkpoint(judge: Judge, checkpoint: Path, sheet: Path | None = None) -> str:
    """The 200 captions with the page's defaults; picture k has seed k."""
    engine, name = engine_for(checkpoint)
    asked, begun = cases(), time.perf_counter()
    requests = [GenerationRequest(prompt=case.caption, checkpoint=name, seed=k) for k, case in enumerate(asked)]
    pictures = list(draw(engine, requests))
    seconds = (time.perf_counter() - begun) / len(pictures)
    if sheet:
        _sheet(pictures).save(sheet)
    scores = {"model": score([case.scene for case in asked], judge.see(pictures)), "real renders": own_score(judge)}
    return f"{table(scores)}\n\n{seconds:.2f} s a picture"


def examine_controlnet(name: str, base: Path) -> str:
    """Silhouettes and edges with the network against the same seeds without it, on plain backgrounds."""
    engine, checkpoint = engine_for(base)
    found: list[tuple[float, float, float]] = []
    scenes = [scene for scene in _plain_scenes() if scene[0].count == 1][:SEEDS]
    for seed, (scene, index) in enumerate(scenes):
        wanted = EXAM.picture(index)
        shown = MAPS[name](wanted.pixels[None], wanted.silhouette[None])[0]
        request = GenerationRequest(prompt=_unplaced(scene), checkpoint=checkpoint, seed=seed)
        control = Control(net=f"pocket-{name}", image=Image.fromarray(shown).convert("RGB"))
        free, led = map(as_bytes, draw(engine, [request, request.replace(controls=[control])]))
        edges = MAPS["canny"](wanted.pixels[None], wanted.silhouette[None])[0]
        gained = edge_f1(led, edges) - edge_f1(free, edges)
        found.append(
            (
                overlap(silhouette(free), wanted.silhouette > 0),
                overlap(silhouette(led), wanted.silhouette > 0),
                gained,
            )
        )
    without, following, gained = np.mean(found, axis=0)
    return (
        f"IoU {without:.3f} without, {following:.3f} with it; edges' F1 higher by {gained:.3f}; mean of {len(found)}"
    )


def examine_lora(style: Style, judge: Judge, base: Path) -> str:
    """How often the style shows, and how often the subject is still what was asked for."""
    engine, checkpoint = engine_for(base)
    measure, share = STYLE_MEASURES[style]
    scenes = [scene for scene, _ in _plain_scenes() if scene.colour not in ("white", "black")][:SEEDS]
    requests = [
        GenerationRequest(prompt=plain_caption(s), checkpoint=checkpoint, seed=k) for k, s in enumerate(scenes)
    ]
    plain = list(draw(engine, requests))
    styled = list(draw(engine, [r.replace(loras=[Lora(name=f"pocket-{style}")]) for r in requests]))
    moved = sum(
        measure(as_bytes(new)) <= share * measure(as_bytes(old)) for old, new in zip(plain, styled, strict=True)
    )
    known = sum(seen.subject == scene.subject for seen, scene in zip(judge.see(styled), scenes, strict=True))
    return f"style shows in {moved} of {len(scenes)}, subject recognised in {known} of {len(scenes)}"


EXAM = Pictures(400, salt=11)


def _plain_scenes() -> Iterator[tuple[Scene, int]]:
    """Scenes before one colour, and which pictures of EXAM they are."""
    scenes = ((EXAM.scene(index), index) for index in range(EXAM.count))
    return ((scene, index) for scene, index in scenes if scene.background in PLAIN)


def _unplaced(scene: Scene) -> str:
    """The caption without size and place, which are for the control picture to say."""
    return plain_caption(replace(scene, size="medium", position="centre"))


def _sheet(pictures: Sequence[Image.Image], columns: int = 20) -> Image.Image:
    side = 96
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * side, rows * side))
    for k, picture in enumerate(pictures):
        sheet.paste(picture.resize((side, side), Image.Resampling.LANCZOS), (k % columns * side, k // columns * side))
    return sheet
