"""What the README promises to Hugging Face Spaces and to CI is what the project has."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.readme import TABLES, updated

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def pinned(package: str) -> str:
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    return next(line.split("==")[1].split()[0] for line in lines if line.startswith(f"{package}=="))


def test_a_space_runs_our_gradio_and_our_python() -> None:
    _, front_matter, _ = README.split("---\n", 2)
    space = yaml.safe_load(front_matter)
    assert (space["sdk"], space["sdk_version"]) == ("gradio", pinned("gradio"))
    assert isinstance(space["python_version"], str)  # unquoted, 3.10 would be read as 3.1
    assert tuple(map(int, space["python_version"].split("."))) >= (3, 11)
    assert (ROOT / space["app_file"]).is_file()
    assert len(space["short_description"]) <= 60  # the hub refuses more


def test_ci_runs_the_readmes_test_command() -> None:
    command = README.split("## Tests\n\n```\n")[1].split("\n```")[0]
    assert (ROOT / ".ci" / "run").read_text("utf-8").splitlines()[-1] == command


def test_every_requirement_is_pinned_and_says_what_for() -> None:
    for file in ("requirements.txt", "tests/requirements.txt"):
        for line in (ROOT / file).read_text("utf-8").splitlines():
            requirement, _, reason = line.partition("#")
            assert "==" in requirement
            assert reason.strip()


def test_its_tables_are_those_of_the_code() -> None:
    """`python -m tests.readme` writes them anew."""
    assert updated(README) == README


def test_every_table_has_its_place() -> None:
    for name in TABLES:
        assert README.count(f"<!-- {name} -->") == README.count(f"<!-- /{name} -->") == 1
