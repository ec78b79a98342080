"""What of a written prompt is not drawn: taken out or found as the dialects have it, and said before the run."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from core import Engine, Finished, GenerationRequest, Lora, Settings
from core.errors import DarkroomError, RequestError
from core.library import read_words
from core.library.checkpoints import Checkpoint
from core.library.telling import tell
from core.pictures.metadata import encode_png, read_text
from core.prompts import Time, compose, split_tokens
from core.request import take_tags
from core.request.presets import _around
from tests import loras, tiny
from ui.desk import REMEMBERED, Desk

QUICK = {"seed": 7, "steps": 1, "width": 64, "height": 64}
NOTE = "{}: what follows # is a comment and not drawn; \\# is the character"

TAG = "Prompt: {} is left out, a tag of another tool"


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Engine:
    """Two embeddings of one name in different folders, one with brackets, one for another model, and a LoRA."""
    folder = tmp_path_factory.mktemp("models")
    pipeline = tiny.sd()
    pipeline.save_pretrained(folder / "checkpoints" / "sd")
    torch.manual_seed(0)
    for name in ("XL/deep", "other/deep", "ink (v2)", "[odd]", "plain"):
        loras.write(folder / "embeddings" / f"{name}.safetensors", {"emb_params": torch.randn(2, 32)})
    loras.write(folder / "embeddings" / "wide.safetensors", {"emb_params": torch.ones(2, 768)})
    (folder / "embeddings" / "old.pt").write_bytes(b"PK")
    loras.write(folder / "loras" / "ink.safetensors", loras.lora(loras.of(pipeline), 1))
    return Engine(Settings(models=folder, previews=False))


def run(engine: Engine, prompt: str, **fields) -> Finished:
    *_, last = engine.generate(GenerationRequest(prompt=prompt, **QUICK | fields))
    assert isinstance(last, Finished)
    return last


def read(engine: Engine, prompt: str, **fields) -> list[list[list]]:
    """What the text encoder is given for both prompts: tokens with their weights, or vectors in their place."""
    kit = engine.library.kit(engine.library.resolve(GenerationRequest(prompt=prompt, **QUICK | fields)))
    (words,) = read_words(kit.words, 1)
    texts = (kit.told.request.prompt, kit.told.request.negative_prompt)
    wordings = [part.at(Time(0, 1)) for text in texts for part in compose(text)]
    tokens = [
        token for wording in wordings for chunk in split_tokens(tiny.tokenizer(), wording, words) for token in chunk
    ]
    return [
        [token.id, token.weight, token.vector if token.vector is None else token.vector.tolist()] for token in tokens
    ]


def pixels(engine: Engine, prompt: str, **fields) -> bytes:
    return run(engine, prompt, **fields).images[0].tobytes()


@pytest.mark.parametrize(
    ("written", "drawn", "note"),
    [
        ("a red circle\n# a blue tree", "a red circle\n", NOTE.format("Prompt")),
        ("a red circle # a blue tree", "a red circle ", NOTE.format("Prompt")),
        ("# first\na red#x\ncircle", "\na red\ncircle", NOTE.format("Prompt")),
        ("a red # (circle AND <hypernet:foo>\ncircle", "a red \ncircle", NOTE.format("Prompt")),
        ("a red circle <hypernet:foo:1>", "a red circle ", TAG.format("<hypernet:foo:1>")),
        ("a <wildcard:x y>circle", "a circle", TAG.format("<wildcard:x y>")),
        ("a embedding:missing, b", "a , b", "“embedding:missing” is left out: the embedding is not here"),
        ("(embedding:no.pt:1.2) b", "(:1.2) b", "“embedding:no.pt” is left out: the embedding is not here"),
        ("a embedding:wide b", "a  b", "“embedding:wide” is left out: the embedding is for another model"),
        ("a embedding:deep-neg", "a ", "“embedding:deep-neg” is left out: the embedding is not here"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_left_out_and_said(engine, written, drawn, note):
    resolved = engine.library.resolve(GenerationRequest(prompt=written, **QUICK))
    assert engine.notes(resolved) == (note,)
    assert read(engine, written) == read(engine, drawn)
    assert resolved.prompt == written


def test_the_picture_is_that_of_what_is_read_and_keeps_what_was_written(engine):
    written = "a red # blue\ncircle <hypernet:foo:1>, embedding:no"
    done = run(engine, written)
    assert len(done.notes) == 3 and done.notes == engine.notes(done.request)
    assert done.images[0].tobytes() == pixels(engine, "a red \ncircle , ")
    assert read_text(encode_png(done.images[0], done.request, 0, {})).text.startswith(f"{written}\nSteps:")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("embedding:deep", "deep"),
        ("embedding:Deep.safetensors, big", "deep, big"),
        ("(embedding:deep.pt:1.2)", "(deep:1.2)"),
        ("[embedding:deep:0.4]", "[deep:0.4]"),
        ("embedding:XL/deep", "embedding:xl\\deep"),
        ("embedding:other\\deep.safetensors", "embedding:other/DEEP"),
        ("embedding:ink (v2), big", "ink \\(v2\\), big"),
        ("embedding:ink \\(v2\\).safetensors, big", "ink (v2), big"),
        ("(embedding:ink (v2):1.3)", "(ink \\(v2\\):1.3)"),
        ("a \\[odd\\] cat", "a embedding:[odd] cat"),
    ],
)
def test_an_embedding_is_found_however_it_is_named(engine, written, meant):
    request = engine.library.resolve(GenerationRequest(prompt=written, **QUICK))
    assert engine.notes(request) == () and engine.library.kit(request).words
    assert read(engine, written) == read(engine, meant)
    assert engine.count_tokens(written, "sd") == engine.count_tokens(meant, "sd")


def test_names_in_folders_are_not_mixed_up(engine):
    one, two, three = (read(engine, f"embedding:{name}") for name in ("XL/deep", "other/deep", "plain"))
    assert one != two != three != one
    assert all(vector is None for _, _, vector in read(engine, "a [odd] cat"))  # brackets, not a name


def test_a_pickle_is_refused_by_each_of_its_names(engine):
    for name in ("old", "embedding:old", "embedding:old.pt"):
        with pytest.raises(RequestError, match=r"“old” is not allowed; use another word; .* pickle"):
            engine.library.resolve(GenerationRequest(prompt=name))


def test_what_is_read_as_words_is_said(engine):
    words = GenerationRequest(prompt="a wide circle", negative_prompt="<lora:x:1> # blue", **QUICK)
    assert engine.notes(engine.library.resolve(words)) == (
        "“wide” is read as a word: the embedding of that name is for another model",
        NOTE.format("Negative prompt"),
        "Negative prompt: <lora:x:1> is read as words",
    )
    plain = read(engine, "a wide circle", negative_prompt="<lora:x:1> ")
    assert read(engine, words.prompt, negative_prompt=words.negative_prompt) == plain


def test_tags_of_loras_count_in_any_case_and_not_in_comments(engine):
    done = run(engine, "a cat <LORA:ink:0.5> # <lora:none:1>")
    assert [(lora.name, lora.weight) for lora in done.request.loras] == [("ink", 0.5)]
    assert done.request.prompt == "a cat  # <lora:none:1>"
    assert done.images[0].tobytes() == pixels(engine, "a cat <lora:ink:0.5>")


def test_a_number_sign_can_be_drawn(engine):
    assert engine.notes(engine.library.resolve(GenerationRequest(prompt="a \\# b"))) == ()
    assert len(read(engine, "a \\# b")) == len(read(engine, "a  b")) + 1


def test_nothing_that_is_put_behind_a_prompt_falls_into_its_comment(engine):
    assert _around("ink", "a cat # mine") == "a cat # mine\n, ink"
    assert _around("a {prompt}, ink", "cat # mine") == "a cat # mine\n, ink"
    assert _around("", "a cat # mine") == "a cat # mine" == _around("{prompt}", "a cat # mine")
    request = GenerationRequest(prompt="a cat # mine <lora:no>", loras=(Lora(name="ink", weight=0.5),))
    text = read_text(encode_png(Image.new("RGB", (64, 64)), request, 0, {})).text
    assert take_tags(GenerationRequest(prompt=text.split("\nSteps:")[0])).loras == request.loras


def test_the_page_says_it_before_the_run(engine):
    desk = Desk(engine, None, None, REMEMBERED)
    request = engine.library.resolve(GenerationRequest(prompt="a cat <hypernet:foo:1>", **QUICK))
    assert next(iter(desk._notes(request))) == "Prompt: <hypernet:foo:1> is left out, a tag of another tool"


PIECES = st.sampled_from(
    [
        "#",
        "\\",
        "\n",
        "<lora:",
        "<a:b>",
        ">",
        "embedding:",
        "deep",
        "ink (v2)",
        "[",
        "]",
        "(",
        ":0.5",
        "/",
        ".pt",
        " AND ",
    ]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(PIECES | st.text(max_size=3), max_size=12).map("".join))
def test_any_text_is_told_or_refused(engine, text):
    try:
        request = take_tags(GenerationRequest(prompt=text, negative_prompt=text))
    except DarkroomError:
        return
    checkpoint: Checkpoint = engine.library.find("sd")
    told = engine.library.tell(request, checkpoint)
    assert all(note.isprintable() for note in told.notes)
    assert all(part.weight <= 10 for part in compose(told.request.prompt))
    if not set(text) & set("#<") and "embedding:" not in text and "ink" not in text:
        assert told.request == request
    assert tell(told.request, checkpoint, engine.library._embeddings).request.prompt.count("#") == (
        told.request.prompt.count("#")
    )
