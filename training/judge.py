"""The judge: a small network that says what a picture shows, and the scores that it gives.

It is trained on renderings of its own, blurred and noisy ones among them, in every style; its score on further ones
stands beside what it says of a model.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy, interpolate

from training.captions import plain_caption
from training.domain import BACKGROUNDS, COLOURS, COUNTS, POSITIONS, SIZES, SUBJECTS, Scene, styled
from training.pictures import Pictures, to_tensor
from training.render import Bytes
from training.runs import Clock, Plan, Stage, batch_of, generator

SALT = 505
SIDE = 128
HEADS: dict[str, Sequence[object]] = {
    "subject": SUBJECTS,
    "colour": list(COLOURS),
    "background": BACKGROUNDS,
    "count": COUNTS,
    "size": SIZES,
    "position": POSITIONS,
}
PLAN = Plan("judge", 4_000, 32, 2e-3, ema=0.99)
PICTURES = 16_000
FOLDER = Path(__file__).parent
WEIGHTS, JUDGED = FOLDER / "judge.safetensors", FOLDER / "judged.jsonl"
CASES = 200
SAID: tuple[dict[str, Any], ...] = (
    {},
    *({"count": count} for count in COUNTS[1:]),
    *({"size": size} for size in SIZES if size != "medium"),
    *({"position": position} for position in POSITIONS if position != "centre"),
)
"""What a case says beside subject, colour and background."""


class Judge(nn.Module):
    """(n, 3, 128, 128) in −1 … 1 -> scores of every word, by the field of Scene."""

    def __init__(self, channels: Sequence[int] = (16, 32, 64, 96)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((3, *channels), channels, strict=False):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(4, after), nn.SiLU()]
            layers += [nn.Conv2d(after, after, 3, 1, 1), nn.GroupNorm(4, after), nn.SiLU()]
        self.body = nn.Sequential(
            *layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * channels[-1], 96), nn.SiLU()
        )
        self.heads = nn.ModuleDict({field: nn.Linear(96, len(words)) for field, words in HEADS.items()})

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        seen = self.body(pictures)
        return {field: head(seen) for field, head in self.heads.items()}

    @torch.inference_mode()
    def look(self, pictures: Tensor) -> list[Scene]:
        """What each picture shows."""
        best = {field: scores.argmax(1).tolist() for field, scores in self(pictures).items()}
        return [
            Scene(**{field: words[best[field][k]] for field, words in HEADS.items()}) for k in range(len(pictures))
        ]  # type: ignore[arg-type]

    def see(self, pictures: Sequence[Image.Image]) -> list[Scene]:
        small = [
            np.asarray(picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)) for picture in pictures
        ]
        return self.look(to_tensor(np.stack(small)))


def train_judge(plan: Plan, count: int, run: Path, clock: Clock) -> Judge:
    torch.manual_seed(SALT)
    judge = Judge()
    sets = [Pictures(count, salt=6), Pictures(count // 4, 7, "outline"), Pictures(count // 4, 8, "night")]
    pixels = np.concatenate([pictures.pixels(SIDE) for pictures in sets])
    scenes = [styled(each.scene(index), each.style) for each in sets for index in range(each.count)]
    targets = {f: torch.tensor([list(w).index(getattr(s, f)) for s in scenes]) for f, w in HEADS.items()}

    def loss(step: int) -> Tensor:
        chosen = batch_of(step, len(pixels), plan.batch, SALT)
        said, true = judge(_worn(to_tensor(pixels[chosen]), step)), torch.from_numpy(chosen)
        return torch.stack([cross_entropy(said[field], target[true]) for field, target in targets.items()]).sum()

    Stage(plan, {"judge": judge}, loss, {"pictures": len(pixels)}).train(run, clock)
    return judge.eval()


def _worn(pictures: Tensor, step: int) -> Tensor:
    """As a model's pictures are: a little soft, noisy, and off in colour."""
    source = generator(SALT, step)
    blur, noise, tint = torch.rand(3, generator=source)
    soft = interpolate(avg_pool2d(pictures, 2), scale_factor=2, mode="bilinear")
    mixed = torch.lerp(pictures, soft, blur) + 0.08 * noise * torch.randn(pictures.shape, generator=source)
    return mixed + 0.12 * tint * torch.randn((len(pictures), 3, 1, 1), generator=source)


def save_judge(judge: Judge, file: Path = WEIGHTS) -> None:
    save_file({key: value.half() for key, value in judge.state_dict().items()}, file)


def load_judge(file: Path = WEIGHTS) -> Judge:
    judge = Judge()
    judge.load_state_dict({key: value.float() for key, value in load_file(file).items()})
    return judge.eval()


@dataclass(frozen=True)
class Case:
    caption: str
    scene: Scene


def cases(file: Path = JUDGED) -> list[Case]:
    """What every model is asked for. The file was drawn once, by `draw_cases`."""
    rows = (json.loads(line) for line in file.read_text("utf-8").splitlines())
    return [Case(row.pop("caption"), Scene(**row)) for row in rows]


def draw_cases(count: int = CASES) -> list[Case]:
    """Each subject, and each word of SAID, as often as the others; colours and backgrounds nearly so.

    Subject, colour and background of a case are never trained on together.
    """
    rng, used, drawn = np.random.default_rng(SALT), Counter[str](), list[Case]()
    every = itertools.product(SUBJECTS, COLOURS, BACKGROUNDS)
    free = [scene for scene in (Scene(*triple) for triple in every) if scene.is_sensible and scene.is_held_out]
    while len(drawn) < count:
        subject, said = SUBJECTS[len(drawn) % len(SUBJECTS)], SAID[len(drawn) % len(SAID)]
        scenes = [replace(free[k], **said) for k in rng.permutation(len(free)) if free[k].subject == subject]
        scenes = [scene for scene in scenes if Case(plain_caption(scene), scene) not in drawn]
        scene = min(
            scenes, key=lambda s: used[f"front {s.colour}"] / len(COLOURS) + used[s.background] / len(BACKGROUNDS)
        )
        used.update((f"front {scene.colour}", scene.background))
        drawn.append(Case(plain_caption(scene), scene))
    return drawn


def score(asked: Sequence[Scene], seen: Sequence[Scene]) -> dict[str, tuple[int, int]]:
    """(right, of how many) by what is asked; count, size and position where the caption says something of them."""
    pairs = list(zip(asked, seen, strict=True))

    def right(fields: Sequence[str], counted: Sequence[tuple[Scene, Scene]]) -> tuple[int, int]:
        return sum(all(getattr(a, f) == getattr(s, f) for f in fields) for a, s in counted), len(counted)

    return {
        "subject": right(["subject"], pairs),
        "foreground": right(["colour"], pairs),
        "background": right(["background"], pairs),
        "all three": right(["subject", "colour", "background"], pairs),
        "count": right(["count"], [pair for pair in pairs if pair[0].count > 1]),
        "size": right(["size"], [pair for pair in pairs if pair[0].size != "medium"]),
        "position": right(["position"], [pair for pair in pairs if pair[0].position != "centre"]),
    }


def own_score(judge: Judge, count: int = 1_000) -> dict[str, tuple[int, int]]:
    """On renderings that it was not trained on."""
    pictures = Pictures(count, salt=10)
    seen = [scene for part in np.array_split(pictures.pixels(SIDE), 20) for scene in judge.look(to_tensor(part))]
    return score([pictures.scene(index) for index in range(count)], seen)


def table(scores: dict[str, dict[str, tuple[int, int]]]) -> str:
    """Markdown: a row for each thing asked, a column for each of `scores`."""
    columns = list(scores)
    rows = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for thing in next(iter(scores.values())):
        cells = [f"{right / max(1, of):.3f} of {of}" for right, of in (scores[column][thing] for column in columns)]
        rows.append(f"| {thing} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def as_bytes(picture: Image.Image) -> Bytes:
    return np.asarray(picture.convert("RGB"))
