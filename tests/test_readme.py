"""What README and docs promise, to people, to Hugging Face Spaces and to CI, is what the project has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.readme import PAGES, ROOT, TABLES, updated

README = (ROOT / "README.md").read_text("utf-8")
CARDS = sorted(ROOT.glob("models/**/README.md")) + sorted(ROOT.glob("presets/**/README.md"))
READ = (*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *CARDS)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.DOTALL | re.MULTILINE)


def pinned(package: str) -> str:
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    return next(line.split("==")[1].split()[0] for line in lines if line.startswith(f"{package}=="))


def anchors(page: Path) -> set[str]:
    """What GitHub calls a page's headings: lower case, hyphens for spaces, no other signs."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def checks() -> list[str]:
    """The commands of tests/run between what it installs and the tests."""
    *lines, _ = (ROOT / "tests" / "run").read_text("utf-8").strip().split("\n\n")[-1].splitlines()
    return lines


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
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8"))
    assert workflow["jobs"]["test"]["steps"][-1] == {"run": ".ci/run"}


def test_what_ci_checks_is_checked_before_a_commit() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    assert [hook["entry"] for hook in repository["hooks"]] == checks()


def test_every_requirement_is_pinned_and_says_what_for() -> None:
    for file in ("requirements.txt", "tests/requirements.txt"):
        for line in (ROOT / file).read_text("utf-8").splitlines():
            requirement, _, reason = line.partition("#")
            assert "==" in requirement
            assert reason.strip()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_its_tables_are_those_of_the_code(page: Path) -> None:
    """`python -m tests.readme` writes them anew."""
    assert updated(page.read_text("utf-8")) == page.read_text("utf-8")


def test_every_table_has_its_one_place() -> None:
    texts = "\n".join(page.read_text("utf-8") for page in PAGES)
    for name in TABLES:
        assert texts.count(f"<!-- {name} -->") == texts.count(f"<!-- /{name} -->") == 1


@pytest.mark.parametrize("page", READ, ids=lambda page: str(page.relative_to(ROOT)))
def test_its_links_lead_somewhere(page: Path) -> None:
    for path, anchor in LINK.findall(CODE.sub("", page.read_text("utf-8"))):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


def test_every_page_of_docs_is_linked_from_the_readme() -> None:
    assert all(f"](docs/{page.name})" in README for page in PAGES[1:])


def test_what_the_readme_writes_in_python_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DARKROOM_DATA", str(tmp_path / "data"))
    code = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)[0]
    exec(code.replace("steps=20", "steps=1"), {})
    assert (tmp_path / "circle.png").is_file()
