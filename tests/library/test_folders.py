"""Folders of models: one scanner for every kind, other tools' folders, and what lies beside a file."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors import HubError, LoraError, RequestError
from core.hub import Hub
from core.library.folders import EXTRA_PATHS, KINDS, TOOLS, models_in, origin, read_extra_paths, shelves
from core.library.library import Library
from core.library.sidecars import TEXT_LIMIT, beside
from core.settings import ROOT, Settings
from tests import loras

ENDINGS = (".json", ".civitai.info", ".cm-info.json", ".txt")
QUIETLY = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


# The scanner


def test_every_file_is_found_once_by_whatever_links_lead_to_it(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    touch(here / "a.safetensors", here / "deep" / "er" / "b.SFT", there / "c.Safetensors", there / "unet" / "x.json")
    touch(here / ".hidden" / "d.safetensors", here / "._a.safetensors", here / "notes.txt")
    (here / "a link").symlink_to(here / "deep")  # sorted before what it leads to
    (here / "deep" / "up").symlink_to(here)
    (here / "linked").symlink_to(there / "unet")
    (here / "also").symlink_to(there)
    (here / "nowhere").symlink_to(tmp_path / "gone")
    assert list(models_in(here, whole=False)) == ["a.safetensors", "also/c.Safetensors", "deep/er/b.SFT"]
    assert list(models_in(tmp_path / "gone")) == []


def test_a_folder_of_diffusers_is_one_model_where_it_counts_as_one(tmp_path: Path) -> None:
    touch(tmp_path / "mine" / "unet" / "w.safetensors", tmp_path / "mine" / "model_index.json")
    (tmp_path / "again").symlink_to(tmp_path / "mine")
    assert list(models_in(tmp_path)) == ["mine"]
    assert list(models_in(tmp_path, whole=False)) == ["mine/unet/w.safetensors"]


def test_names_are_nfc_and_the_first_folders_count(tmp_path: Path) -> None:
    touch(tmp_path / "one" / unicodedata.normalize("NFD", "é.safetensors"), tmp_path / "two" / "é.safetensors")
    touch(tmp_path / "two" / "a.safetensors")
    found = models_in([tmp_path / "two", tmp_path / "one"])
    assert {name: path.parent.name for name, path in found.items()} == {
        "é.safetensors": "two",
        "a.safetensors": "two",
    }
    assert list(models_in(tmp_path / "one")) == ["é.safetensors"]


def test_the_scanner_is_the_same_for_every_kind(tmp_path: Path) -> None:
    """A linked folder is looked into for whatever it holds."""
    word = {"emb_params": torch.ones(1, 32)}
    for kind in ("loras", "embeddings", "vae", "upscalers", "checkpoints", "controlnet"):
        loras.write(tmp_path / "elsewhere" / kind / f"{kind}.sft", word)
        (tmp_path / "models" / kind).mkdir(parents=True)
        (tmp_path / "models" / kind / "linked").symlink_to(tmp_path / "elsewhere" / kind)
    library = Library(Settings(models=tmp_path / "models", data=tmp_path))
    names = [each.name for known in (library.loras, library.checkpoints, library.networks) for each in known()]
    assert names == ["linked/loras", "linked/checkpoints.sft", "linked/controlnet.sft"]
    assert library.vaes() == ("linked/vae.sft",) and library.upscalers()[-1] == "upscalers"
    assert list(library.at_hand({"prompt": "embedding:EMBEDDINGS"}).missing) == []


# Other tools' folders


@pytest.mark.parametrize(
    ("inside", "kinds", "title"),
    [
        ("models", {"Stable-diffusion": "checkpoints", "Lora": "loras", "ESRGAN": "upscalers"}, "A1111 or Forge"),
        (".", {"Stable-diffusion": "checkpoints", "VAE": "vae", "../embeddings": "embeddings"}, "A1111 or Forge"),
        ("models", {"diffusion_models": "checkpoints", "upscale_models": "upscalers", "loras": "loras"}, "ComfyUI"),
        ("models", {"sd-1/main": "checkpoints", "sdxl/lora": "loras", "any/vae": "vae"}, "InvokeAI"),
        (
            "Data/Models",
            {"StableDiffusion": "checkpoints", "Lora": "loras", "ESRGAN": "upscalers"},
            "Stability Matrix",
        ),
        (".", {"checkpoints": "checkpoints", "loras": "loras"}, "theirs"),
    ],
)
def test_a_folder_is_told_by_the_names_in_it(tmp_path: Path, inside: str, kinds: dict[str, str], title: str) -> None:
    given, own = tmp_path / "tool" / "theirs", tmp_path / "own"
    for name in kinds:
        touch(given / inside / name / "x.safetensors")
    found = shelves([own, given])
    for kind in kinds.values():
        (name,), of_tool = models_in(found.folders(kind)), found.origins(kind)
        assert (name, origin(models_in(found.folders(kind))[name], of_tool)) == ("x.safetensors", title)
        assert found.folders(kind)[0] == own / kind and found.is_own(kind)
    assert shelves([given]).is_own("loras") == (title == "theirs")


def test_tools_name_only_kinds_that_there_are() -> None:
    assert all(tool.places.keys() <= set(KINDS) for tool in TOOLS)


def test_comfyuis_list_of_further_folders_is_read_as_comfyui_reads_it(tmp_path: Path) -> None:
    comfy, shared = tmp_path / "ComfyUI", tmp_path / "shared"
    touch(comfy / "models" / "diffusion_models" / "a.safetensors", comfy / "models" / "unet" / "b.safetensors")
    touch(shared / "models" / "Lora" / "c.safetensors", shared / "LyCORIS" / "d.safetensors")
    (comfy / EXTRA_PATHS).write_text(
        "a111:\n  base_path: ../shared/\n  is_default: true\n  loras: |\n    models/Lora\n    LyCORIS\n  configs: x\n"
        f"other:\n  clip: {tmp_path}/clip/\nempty:\n"
    )
    for folder in (comfy, comfy / "models"):
        found = shelves([tmp_path / "own", folder])
        assert list(models_in(found.folders("loras"))) == ["c.safetensors", "d.safetensors"]
        assert set(found.origins("loras").values()) == {"ComfyUI, a111"}
        assert found.folders("text_encoders")[-1] == tmp_path / "clip"
        assert list(models_in(found.folders("checkpoints"))) == ["a.safetensors", "b.safetensors"]


@QUIETLY
@given(text=st.one_of(st.binary(max_size=300), st.text(alphabet="a:-[]{}&*|\n 'b", max_size=300).map(str.encode)))
def test_no_list_of_further_folders_is_more_than_none(tmp_path: Path, text: bytes) -> None:
    (tmp_path / EXTRA_PATHS).write_bytes(text)
    assert all(place.kind in KINDS for place in read_extra_paths(tmp_path / EXTRA_PATHS))


@pytest.mark.parametrize("text", ["[" * 100_000, "a: {base_path: 7, loras: [1]}", "a: 7", "- a", "a: {1: b}", "\0"])
def test_lists_that_make_no_sense_name_no_folder_of_files(tmp_path: Path, text: str) -> None:
    (tmp_path / EXTRA_PATHS).write_text(text)
    assert all(not place.folder.exists() for place in read_extra_paths(tmp_path / EXTRA_PATHS))


def test_what_is_another_tools_is_never_written_to(tmp_path: Path) -> None:
    tool = tmp_path / "a1111" / "models"
    touch(tool / "Stable-diffusion" / "a.safetensors", tool / "Lora" / "b.safetensors")
    file = loras.write(tmp_path / "ink.safetensors", loras.lora({"lora_unet": {"x": (4, 4)}}))
    before = sorted(tool.rglob("*"))
    given = Settings(models=tool, data=tmp_path)
    with pytest.raises(LoraError, match="another tool's, which is never written to; start with a folder of"):
        Library(given).add_lora(file, "ink")
    with pytest.raises(HubError, match="Nothing is downloaded: the models folder is another tool's"):
        Hub(given).start("sd-1.5")
    assert sorted(tool.rglob("*")) == before


# Settings


def test_folders_of_models_are_given_by_a_flag_again_or_one_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    both = ["--models", "a,b", "--port", "1", "--models=c:d"]
    assert Settings.from_command_line(both).model_folders == tuple(map(Path.absolute, (Path("a,b"), Path("c:d"))))
    monkeypatch.setenv("DARKROOM_MODELS", os.pathsep.join(["e,f", "g h"]))
    assert Settings.from_command_line([]).model_folders == tuple(map(Path.absolute, (Path("e,f"), Path("g h"))))
    assert Settings.from_command_line(["--models", "x"]).model_folders == (Path("x").absolute(),)
    monkeypatch.setenv("DARKROOM_MODELS", "one")
    assert Settings.from_command_line([]).models == Path("one").absolute()
    monkeypatch.setenv("DARKROOM_MODELS", os.pathsep)
    with pytest.raises(RequestError, match=r"--models \(DARKROOM_MODELS\): .* is not allowed; use folder"):
        Settings.from_command_line([])
    monkeypatch.setenv("DARKROOM_MODELS", "")
    assert Settings.from_command_line([]).model_folders == Settings().model_folders == (ROOT / "models",)


# What lies beside a file


def test_what_civitai_and_others_tell_of_a_file(tmp_path: Path) -> None:
    told = {
        "name": "v2",
        "baseModel": "Pony",
        "trainedWords": ["ink wash, grey", "1girl"],
        "description": "<p>Best at 0.7 &amp; up</p>",
        "model": {"name": "Ink", "type": "LORA"},
        "files": [
            {"name": "ink.safetensors", "hashes": {"SHA256": "AB" * 32, "AutoV2": "ABABABABAB", "CRC32": "12"}},
            {"name": "other.safetensors", "hashes": {"SHA256": "CD" * 32}},
        ],
    }
    file = tmp_path / "ink.safetensors"
    file.with_suffix(".civitai.info").write_text(json.dumps(told))
    touch(tmp_path / "ink.preview.webp")
    found = beside(file)
    assert (found.title, found.base, found.notes) == ("Ink v2", "Pony", "Best at 0.7 & up")
    assert found.words == ("ink wash", "grey", "1girl") and found.preview == tmp_path / "ink.preview.webp"
    assert found.hashes == ("ab" * 32, "ababababab")
    file.with_suffix(".json").write_text(
        json.dumps({"activation text": "own", "sd version": "Unknown", "notes": "n"})
    )
    assert (beside(file).words, beside(file).base, beside(file).notes) == (("own",), "Pony", "n")
    assert beside(tmp_path / "none.safetensors") == type(found)()


def test_stability_matrix_has_its_own_names(tmp_path: Path) -> None:
    told = {"ModelName": "Ink", "VersionName": "Ink v3", "TrainedWords": ["ink"], "BaseModel": "SDXL 1.0"}
    (tmp_path / "a.cm-info.json").write_text(json.dumps(told | {"Hashes": {"SHA256": "ef" * 32}}))
    found = beside(tmp_path / "a.safetensors")
    assert (found.title, found.words, found.base, found.hashes) == ("Ink v3", ("ink",), "SDXL 1.0", ("ef" * 32,))


KEYS = ("model", "name", "files", "hashes", "trainedWords", "notes", "Hashes", "SHA256", "baseModel", "sha256")
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
)


@QUIETLY
@given(told=JSON, raw=st.binary(max_size=200), end=st.sampled_from(ENDINGS))
def test_nothing_beside_a_file_is_more_than_words(tmp_path: Path, told: object, raw: bytes, end: str) -> None:
    for content in (raw, json.dumps(told).encode()):
        (tmp_path / f"a{end}").write_bytes(content)
        found = beside(tmp_path / "a.safetensors")
        for text in (found.title, found.notes, found.base, *found.words, *found.hashes):
            assert (text.encode() and len(text) <= TEXT_LIMIT) or not text
    (tmp_path / f"a{end}").unlink()


@pytest.mark.parametrize("text", ["[" * 100_000, "{" * 9, '{"notes": "\\ud800"}', "9" * 10_000])
def test_what_makes_no_sense_says_nothing_that_cannot_be_shown(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    assert beside(tmp_path / "a.safetensors").notes in ("", "?")
