"""README's and docs' tables, made from the code: `python -m tests.readme` writes them, tests/test_readme.py compares.

A table stands between two marks, `<!-- name -->` and `<!-- /name -->`, on the one page that it belongs to.
"""

from __future__ import annotations

import re
from functools import partial
from math import inf
from pathlib import Path

from pydantic.fields import FieldInfo

from bench import memory
from core.request.generation import GenerationRequest
from core.request.parameters import Parameters, allowed
from core.request.units import UPSCALERS, Control, Hires, Lora, Outpaint
from core.samplers import SAMPLERS
from core.settings import LIMITS, Limits, Settings
from core.sizes import in_words
from training.domain import COLOURS, POSITIONS, SCENES, SIZES, SUBJECTS

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


def fields(model: type[Parameters]) -> str:
    """Every field of `model`: what it takes, what it is when nobody says."""
    rows = ["| field | on the page | takes | default |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        takes = "a sampler's name, see below" if name == "sampler" else allowed(field)
        rows.append(f"| `{name}` | {field.title}: {_lower(field.description)} | {takes} | {_default(field)} |")
    return "\n".join(rows)


def flags() -> str:
    rows = ["| flag | variable | what |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        option = name.replace("_", "-")
        flag = f"--{option}" if field.annotation is not bool else f"--{option}, --no-{option}"
        rows.append(f"| `{flag}` | `DARKROOM_{name.upper()}` | {field.description} |")
    return "\n".join(rows)


def limits() -> str:
    rows = [f"| at most | {' | '.join(LIMITS)} |", "|---|" + "---|" * len(LIMITS)]
    for name, field in Limits.model_fields.items():
        values = [_limit(name, getattr(each, name)) for each in LIMITS.values()]
        rows.append(f"| {field.description} | {' | '.join(values)} |")
    return "\n".join(rows)


def _limit(name: str, value: float) -> str:
    if value == inf:
        return "no limit"
    if name.startswith("share"):
        return f"{value:.0%}"
    return in_words(value) if name.startswith(("upload", "disk")) else f"{value:,.0f}"


def samplers() -> str:
    return ", ".join(SAMPLERS)


def vocabulary() -> str:
    words = {
        "subjects, one to three of them": SUBJECTS,
        "colours": COLOURS,
        "backgrounds, beside the colours": SCENES,
        "sizes": [size for size in SIZES if size != "medium"],  # which goes without saying
        "places": POSITIONS,
    }
    rows = [f"| {kind} | {', '.join(known)} |" for kind, known in words.items()]
    return "\n".join(["| | words that it knows |", "|---|---|", *rows])


TABLES = {
    "vocabulary": vocabulary,
    "parameters": partial(fields, GenerationRequest),
    "controls": partial(fields, Control),
    "loras": partial(fields, Lora),
    "outpaint": partial(fields, Outpaint),
    "hires": partial(fields, Hires),
    "flags": flags,
    "limits": limits,
    "samplers": samplers,
    "memory": memory.table,
}


def updated(text: str) -> str:
    """A page's text with every table between its two marks made anew."""

    def block(mark: re.Match[str]) -> str:
        name = mark[1]
        return f"<!-- {name} -->\n{TABLES[name]()}\n<!-- /{name} -->"

    return re.sub(rf"<!-- ({'|'.join(TABLES)}) -->\n.*?<!-- /\1 -->", block, text, flags=re.DOTALL)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "to be given"
    if field.default is None:
        if field.title == "Model":
            return "the first that works"
        own = field.title in ("Sampler", "Guidance", "Width", "Height")
        return "the model's own" if own else "drawn" if field.title == "Seed" else "none"
    return "empty" if field.default in ("", ()) else f"`{field.default}`"


def _lower(text: str | None) -> str:
    """A description as it goes on behind a label; names keep their capital."""
    text = text or ""
    return text if text.startswith(UPSCALERS) else text[:1].lower() + text[1:]


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(updated(page.read_text("utf-8")), "utf-8")
