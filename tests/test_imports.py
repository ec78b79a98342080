"""Imports run one way, app -> ui -> core, and what is heavy is loaded only when it is needed.

Which room of core/ may import which stands in pyproject.toml, for import-linter.
"""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "diffusers", "transformers", "gradio", "cv2", "scipy", "huggingface_hub")
ROOMS = sorted(door.parent.name for door in (ROOT / "core").glob("*/__init__.py"))
PAGES = sorted(door.parent.name for door in (ROOT / "ui").glob("*/__init__.py"))


def printed_by(code: str) -> list[str]:
    """The words that `code` prints in a new interpreter."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.split()


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that are in after `statement`."""
    return set(printed_by(f"{statement}; import sys; print(*(name for name in sys.modules if '.' not in name))"))


def imported_in(file: Path) -> set[str]:
    """The top-level names of all imports that stand in `file`, those inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    return names


def test_importing_core_loads_nothing_heavy() -> None:
    doors = ", ".join(f"core.{room}" for room in ROOMS)
    assert loaded_by(f"import core, {doors}; core.Engine") & set(HEAVY) == set()


@pytest.mark.parametrize("room", [*(f"core.{room}" for room in ROOMS), *(f"ui.{room}" for room in PAGES)])
def test_every_room_has_a_door_that_says_what_is_behind_it(room: str) -> None:
    door = importlib.import_module(room)
    assert door.__doc__ and door.__doc__.count(".") >= 2 and "__getattr__" not in vars(door)
    assert [name for name in door.__all__ if not hasattr(door, name)] == []


def test_every_room_is_protected() -> None:
    """Or others could come in through the windows."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    protected = [each["protected_modules"] for each in contracts if each["type"] == "protected"]
    assert sorted(protected) == [[f"core.{room}.*"] for room in ROOMS] + [[f"ui.{room}.*"] for room in PAGES]


def test_importing_the_page_does_not_load_the_engines_libraries() -> None:
    loaded = loaded_by("import ui.app, ui.server.serving")
    assert "gradio" in loaded
    assert loaded & {"torch", "diffusers", "transformers"} == set()


def test_neither_gradio_nor_the_hub_reports_home() -> None:
    code = "import ui.server.serving, gradio.analytics as a, huggingface_hub.constants as h"
    said = printed_by(f"{code}; print(a.analytics_enabled(), h.HF_HUB_DISABLE_TELEMETRY)")
    assert said == ["False", "True"]


@pytest.mark.parametrize("file", sorted((ROOT / "core").rglob("*.py")), ids=lambda file: str(file.relative_to(ROOT)))
def test_core_knows_nothing_of_the_page(file: Path) -> None:
    assert imported_in(file) & {"ui", "gradio", "gradio_client", "app", "training", "bench"} == set()


@pytest.mark.parametrize("file", sorted((ROOT / "ui").rglob("*.py")), ids=lambda file: str(file.relative_to(ROOT)))
def test_the_page_knows_nothing_of_who_starts_it(file: Path) -> None:
    assert imported_in(file) & {"app", "torch", "diffusers", "transformers", "training", "bench"} == set()
