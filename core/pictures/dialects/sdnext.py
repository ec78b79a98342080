"""SD.Next's text of 2023: "prompt: …", and settings with bars between them where A1111 has commas."""

from __future__ import annotations

import re

from core.pictures.dialects.a1111 import LINE_LIMIT, NEGATIVE, OWN, prompts_found, settings_found
from core.pictures.dialects.found import Reading, Texts

STEPS = re.compile(r"(?:^|\s)(?=Steps: *\d+ *\|)")
PROMPT = re.compile(r"\Aprompt: *", re.IGNORECASE)
ABOUT = ("Version: ", "App: ", "Backend: ", "Pipeline: ")  # a line before the settings, which ends in a comma


def read(texts: Texts) -> Reading | None:
    text = next((texts.plain[name] for name in OWN if STEPS.search(texts.plain.get(name, ""))), None)
    if text is None:
        return None
    *_, start = (match.end() for match in STEPS.finditer(text))
    lines, about = text[:start].strip().split("\n"), ""
    if lines[-1].startswith(ABOUT) and lines[-1].rstrip().endswith(","):
        about = lines.pop()
    if len(text) - start + len(about) > LINE_LIMIT:
        return None
    prompt, marker, negative = PROMPT.sub("", "\n".join(lines)).partition(NEGATIVE)
    found = prompts_found([prompt.strip(), *([marker + negative] if marker else [])])
    return Reading([*found, *settings_found(_pairs(about, ",") | _pairs(text[start:], "|"))], text)


def _pairs(line: str, separator: str) -> dict[str, str]:
    items = (item.partition(":") for item in line.split(separator) if item.strip())
    return {key.strip(): value.strip() for key, _, value in items}
