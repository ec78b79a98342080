"""Presets: what ships is good, what is wrong is named and skipped, what a person saves is kept whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from core.errors import NotFound, RequestError, StorageError
from core.request.generation import GenerationRequest
from core.request.presets import FILE_LIMIT, NAME_LIMIT, Presets, Size, Style
from core.request.units import Lora

SHIPPED = Path(__file__).parents[2] / "presets"


@pytest.fixture
def presets(tmp_path: Path) -> Presets:
    return Presets(SHIPPED, tmp_path / "presets")


def with_file(folder: Path, kind: str, text: str | bytes) -> Presets:
    (folder / f"{kind}.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return Presets(SHIPPED, folder)


def test_what_ships_is_whole(presets: Presets) -> None:
    library = presets.library
    assert library.problems == () and library.own == frozenset()
    assert sum(style.suits == "real" for style in library.styles.values()) >= 12
    assert sum(style.suits == "pocket" for style in library.styles.values()) >= 4
    assert list(library.settings) == ["Draft", "Fine", "Print"]
    for style in library.styles.values():
        assert style.prompt.count("{prompt}") == 1


@pytest.mark.parametrize("native", [256, 512, 768, 1024])
def test_sizes_keep_the_models_area(presets: Presets, native: int) -> None:
    for name, size in presets.library.sizes.items():
        width, height = size.pixels(native)
        GenerationRequest(width=width, height=height)
        assert width * height == pytest.approx(native**2, rel=0.08), name
        across, down = map(int, name.split()[-1].split(":"))
        assert width / height == pytest.approx(across / down, rel=0.08), name


def test_sizes_in_pixels_are_taken_as_they_are() -> None:
    assert Size(width=640, height=368).pixels(1024) == (640, 368)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"ratio": "3"},
        {"ratio": "0:1"},
        {"ratio": "²:1"},
        {"ratio": "9" * 5_000 + ":1"},
        {"ratio": 1.5},
        {"ratio": "3:2", "width": 64},
        {"width": 64},
        {"width": 65, "height": 64},
    ],
)
def test_sizes_that_are_none(values: dict[str, object]) -> None:
    with pytest.raises(RequestError):
        Size(**values)


def test_styles_apply_in_order_and_leave_the_rest_alone(tmp_path: Path) -> None:
    text = "A: {prompt: 'a {prompt} b', negative_prompt: n}\nB: {prompt: plain, negative_prompt: 'x {prompt}'}"
    library = with_file(tmp_path, "styles", text).library
    request = GenerationRequest(prompt="a {prompt} fox", negative_prompt="m", seed=3)
    styled = library.apply_styles(request, ["A", "B"])
    assert styled == request.replace(prompt="a a {prompt} fox b, plain", negative_prompt="x m, n")
    assert library.apply_styles(request, []) is request
    assert library.apply_styles(request, ["B", "A"]).prompt == "a a {prompt} fox, plain b"


def test_styles_around_nothing_leave_no_stray_comma(presets: Presets) -> None:
    styled = presets.library.apply_styles(GenerationRequest(), ["Watercolour"])
    assert styled.prompt.startswith("watercolor painting")


def test_unknown_and_overlong_styles_are_refused(presets: Presets) -> None:
    with pytest.raises(RequestError, match=r"Nope.*one of Photograph"):
        presets.library.apply_styles(GenerationRequest(), ["Nope"])
    with pytest.raises(RequestError) as caught:
        presets.library.apply_styles(GenerationRequest(prompt="x" * 9_990), ["Watercolour"])
    assert caught.value.field == "prompt"


def test_saved_presets_come_back_the_same(presets: Presets, tmp_path: Path) -> None:
    settings = {"sampler": None, "steps": 7, "guidance_scale": 3.5, "loras": (Lora(name="x", weight=0.5),)}
    presets.save("settings", "Mine: <b>*&", settings)
    presets.save("styles", "Schön 猫", {"prompt": "{prompt}: 'quoted' \"twice\"\n# new line"})
    presets.save("sizes", "Banner", {"width": 1024, "height": 256})
    again = Presets(SHIPPED, tmp_path / "presets").library
    assert again == presets.library
    assert again.settings["Mine: <b>*&"] == settings
    assert again.styles["Schön 猫"] == Style(prompt="{prompt}: 'quoted' \"twice\"\n# new line")
    assert again.own == {("settings", "Mine: <b>*&"), ("styles", "Schön 猫"), ("sizes", "Banner")}
    assert sorted(os.listdir(tmp_path / "presets")) == ["settings.yaml", "sizes.yaml", "styles.yaml"]


def test_a_taken_name_is_overwritten_only_when_asked(presets: Presets) -> None:
    with pytest.raises(RequestError, match="not taken") as caught:
        presets.save("settings", "Draft", {"steps": 3})
    assert caught.value.field == "name"
    presets.save("settings", "Draft", {"steps": 3}, overwrite=True)
    assert presets.library.settings["Draft"] == {"steps": 3}
    presets.delete("settings", "Draft")
    assert presets.library.settings["Draft"] == {"steps": 10, "batch_size": 4}


def test_only_own_presets_can_be_deleted(presets: Presets) -> None:
    for name in ("Draft", "Nope", "../../x"):
        with pytest.raises(NotFound):
            presets.delete("settings", name)


@pytest.mark.parametrize(
    "name",
    ["", " x", "x\0", "a/b", "a\\b", "..", ".", "x" * (NAME_LIMIT + 1), "a\nb", "\ud800", "‮", 7],
)
def test_names_that_are_refused(presets: Presets, tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError) as caught:
        presets.save("settings", name, {"steps": 3})
    assert caught.value.field == "name"
    assert not (tmp_path / "presets").exists()


@pytest.mark.parametrize(
    ("kind", "values", "field"),
    [
        ("settings", {"steps": 0}, "steps"),
        ("settings", {"stepps": 5}, "stepps"),
        ("settings", {"image": "x"}, "image"),
        ("settings", {"guidance_scale": float("nan")}, "guidance_scale"),
        ("styles", {"prompt": "x" * 5_001}, "prompt"),
        ("styles", {"promt": "x"}, "promt"),
        ("styles", {"suits": "flux"}, "suits"),
        ("sizes", {"ratio": "x:1"}, "ratio"),
        ("settings", [], "values"),
        ("models", {}, "kind"),
    ],
)
def test_values_that_are_refused(presets: Presets, kind: str, values: dict[str, object], field: str) -> None:
    with pytest.raises(RequestError) as caught:
        presets.save(kind, "Mine", values)  # type: ignore[arg-type]
    assert caught.value.field == field


ALIASES = "a: &a [x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a]\nc: [*b, *b, *b, *b, *b, *b, *b]"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("A: {prompt: x\nB", "line"),
        ("- a\n- b", "no list of names"),
        ("just text", "no list of names"),
        (b"A: {prompt: \xff}", "not YAML"),
        ("A: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        (ALIASES, "without aliases"),
        ("A: " + "[" * 5_000, "not YAML"),
        ("A: 2001-99-99", "not YAML"),
        ("A: {prompt: x}\nA: {prompt: y}", "twice in line 2"),
        ("# " + "x" * FILE_LIMIT, "larger than"),
        ("? [a, b]\n: x", "not YAML"),
    ],
)
def test_a_broken_file_is_named_and_skipped(tmp_path: Path, text: str | bytes, reason: str) -> None:
    library = with_file(tmp_path, "styles", text).library
    assert len(library.problems) == 1 and not library.own
    assert "styles.yaml" in library.problems[0] and reason in library.problems[0]
    assert str(tmp_path) not in library.problems[0]
    assert "Watercolour" in library.styles


def test_a_broken_entry_is_named_and_the_others_stay(tmp_path: Path) -> None:
    text = "Good: {steps: 5}\nTypo: {stepps: 5}\nOut: {steps: 0}\n7: {steps: 5}\nEmpty:\nSame: {7: 5}"
    library = with_file(tmp_path, "settings", text).library
    assert library.own == {("settings", "Good")}
    assert [problem.split("”")[0] for problem in library.problems] == ["“Typo", "“Out", "“7", "“Empty", "“Same"]
    assert "“stepps” is not allowed" in library.problems[0]
    assert "Steps: 0 is not allowed" in library.problems[1]


def test_saving_beside_broken_entries_keeps_them(tmp_path: Path) -> None:
    presets = with_file(tmp_path, "settings", "Typo: {stepps: 5}\n")
    presets.save("settings", "Mine", {"steps": 5})
    assert "stepps: 5" in (tmp_path / "settings.yaml").read_text() and len(presets.library.problems) == 1


def test_a_damaged_file_is_never_overwritten(tmp_path: Path) -> None:
    presets = with_file(tmp_path, "settings", "A: {")
    with pytest.raises(StorageError, match=r"settings\.yaml is damaged"):
        presets.save("settings", "Mine", {"steps": 5})
    assert (tmp_path / "settings.yaml").read_text() == "A: {"


def test_a_full_or_unwritable_folder_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    presets = Presets(SHIPPED, tmp_path / "file" / "presets")
    with pytest.raises(StorageError, match="cannot be read or written") as caught:
        presets.save("settings", "Mine", {"steps": 5})
    assert str(tmp_path) not in str(caught.value)


def test_a_file_never_grows_beyond_what_is_read(tmp_path: Path) -> None:
    near = "".join(f"S{number}: {{prompt: {'x' * 4_900}}}\n" for number in range(FILE_LIMIT // 4_930))
    presets = with_file(tmp_path, "styles", near)
    assert presets.library.problems == ()
    with pytest.raises(StorageError, match="would grow"):
        presets.save("styles", "One too many", {"prompt": "y" * 5_000})
    assert (tmp_path / "styles.yaml").read_text() == near
    assert os.listdir(tmp_path) == ["styles.yaml"]
