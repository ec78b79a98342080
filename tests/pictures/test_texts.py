"""Texts are read wherever a file keeps them and in whatever encoding; bombs and damage come to nothing."""

from __future__ import annotations

import json
import time
import zlib
from contextlib import suppress
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from core.errors import DarkroomError, RequestError
from core.pictures.metadata import read_text
from core.pictures.texts import decode_comment, read_texts
from tests.files import commented, png, raw_chunk, tagged, with_xmp

TEXT = "a fóx, “猫” of 東京\nNegative prompt: blurry\nSteps: 21, Sampler: Euler a, Seed: 77, Size: 64x64"
PLAIN = "a red fox\nNegative prompt: blurry\nSteps: 21, Sampler: Euler a, Seed: 77, Size: 64x64"
GRAPH = json.dumps({"1": {"class_type": "KSampler", "inputs": {"positive": 1, "latent_image": 2, "seed": 3}}})
XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:exif="http://ns.adobe.com/exif/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/">
%s</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>"""
LISTED = "<exif:UserComment><rdf:Alt><rdf:li xml:lang='x-default'>{}</rdf:li></rdf:Alt></exif:UserComment>"


def escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", "&#xA;")


# A user's comment

COMMENTS = {
    "UTF-16, the high byte first": b"UNICODE\0" + TEXT.encode("utf-16-be"),
    "UTF-16, the low byte first": b"UNICODE\0" + TEXT.encode("utf-16-le"),
    "UTF-16 with the mark of the high byte": b"UNICODE\0\xfe\xff" + TEXT.encode("utf-16-be"),
    "UTF-16 with the mark of the low byte": b"UNICODE\0\xff\xfe" + TEXT.encode("utf-16-le"),
    "UTF-16 that ends in zeros": b"UNICODE\0" + TEXT.encode("utf-16-le") + b"\0\0",
    "UTF-8 that is called UTF-16": b"UNICODE\0" + PLAIN.encode(),
    "a header in lower case": b"Unicode\0" + TEXT.encode("utf-16-le"),
    "ASCII": b"ASCII\0\0\0" + PLAIN.encode(),
    "UTF-8 that is called ASCII": b"ASCII\0\0\0" + TEXT.encode(),
    "JIS": b"JIS\0\0\0\0\0" + "赤い狐\nSteps: 21".encode("iso2022_jp"),
    "Shift JIS that is called JIS": b"JIS\0\0\0\0\0" + "赤い狐\nSteps: 21".encode("shift_jis"),
    "UTF-8 that is called so": b"UTF-8\0\0\0" + TEXT.encode(),
    "UTF-8 without a hyphen": b"UTF8\0\0\0\0" + TEXT.encode(),
    "UTF-8 without a name": b"\0" * 8 + TEXT.encode(),
    "UTF-16 without a name": b"\0" * 8 + TEXT.encode("utf-16-le"),
    "no header at all": PLAIN.encode(),
    "no header before UTF-8": TEXT.encode(),
    "no header before UTF-16": TEXT.encode("utf-16-be"),
    "a mark alone": b"\xff\xfe" + TEXT.encode("utf-16-le"),
    "Latin 1": b"ASCII\0\0\0" + "a fóx\nSteps: 21".encode("latin-1"),
}


@pytest.mark.parametrize("name", COMMENTS)
@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG"])
def test_a_comment_is_read_in_every_encoding(name: str, kind: str) -> None:
    texts = read_texts(commented(COMMENTS[name], kind))
    assert texts["UserComment"] in (TEXT, PLAIN, "赤い狐\nSteps: 21", "a fóx\nSteps: 21")
    info = read_text(commented(COMMENTS[name], kind))
    assert (info.source, info.fields["steps"]) == ("a1111", 21) and "�" not in info.fields["prompt"]


ENCODED = st.sampled_from(
    [
        (b"UNICODE\0", "utf-16-be"),
        (b"UNICODE\0", "utf-16-le"),
        (b"UNICODE\0", "utf-16"),
        (b"ASCII\0\0\0", "utf-8"),
        (b"\0" * 8, "utf-8"),
        (b"\0" * 8, "utf-16-le"),
        (b"", "utf-8"),
        (b"", "utf-16-be"),
    ]
)
words = st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn"], max_codepoint=0xFFFD), min_size=1, max_size=40)


@settings(deadline=None)
@given(words, ENCODED)
def test_any_prompt_comes_back_from_any_encoding(prompt: str, encoded: tuple[bytes, str]) -> None:
    header, encoding = encoded
    text = (
        f"x{prompt}\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 512x512, Model: a model of that name"
    )
    assert decode_comment(header + text.encode(encoding)) == text


def test_a_comment_of_no_letters_says_nothing() -> None:
    for empty in (b"ASCII\0\0\0" + b"\0" * 40, b"UNICODE\0", b"\0" * 90, b"ASCII\0\0\0    "):
        assert read_texts(commented(empty)) == {}


# The places


@pytest.mark.parametrize("name", [b"tEXt", b"zTXt", b"iTXt"])
def test_texts_behind_the_pixels_are_those_that_pillow_knows(name: bytes) -> None:
    content = {
        b"tEXt": b"parameters\0" + PLAIN.encode(),
        b"zTXt": b"parameters\0\0" + zlib.compress(PLAIN.encode()),
        b"iTXt": b"parameters\0\0\0\0\0" + TEXT.encode(),
    }[name]
    data = raw_chunk(png(), name, content, behind=True)
    file = PngImageFile(BytesIO(data))
    file.load()
    assert read_texts(data) == file.text and file.text
    assert read_text(data).fields["seed"] == 77


def test_utf_8_where_latin_1_is_due_is_utf_8() -> None:
    assert read_texts(raw_chunk(png(), b"tEXt", b"parameters\0" + TEXT.encode())) == {"parameters": TEXT}
    assert read_texts(raw_chunk(png(), b"tEXt", b"Title\0" + "café".encode())) == {"Title": "café"}
    assert read_texts(raw_chunk(png(), b"tEXt", b"Title\0" + "a — b".encode())) == {"Title": "a — b"}
    assert read_texts(raw_chunk(png(), b"tEXt", b"Title\0f\xf3x")) == {"Title": "fóx"}
    assert read_texts(raw_chunk(png(), b"tEXt", b"Title\0\xc2\xa0")) == {"Title": "Â\xa0"}
    assert read_texts(png(Title="“fóx”")) == {"Title": "“fóx”"}


def test_exif_behind_the_pixels_and_as_imagemagicks_text() -> None:
    with Image.open(BytesIO(commented(COMMENTS["ASCII"], "PNG"))) as file:
        exif = file.info["exif"]
    behind = raw_chunk(png(), b"eXIf", exif.removeprefix(b"Exif\0\0"), behind=True)
    assert read_texts(behind) == {"UserComment": PLAIN}
    for name in ("exif", "APP1"):
        profile = f"\n{name}\n{len(exif):8}\n{exif.hex()}\n"
        assert read_texts(png(**{f"Raw profile type {name}": profile})) == {"UserComment": PLAIN}


def test_comfyui_writes_webp_into_tags_of_cameras() -> None:
    data = tagged("WEBP", Model=f"prompt:{GRAPH}", Make='workflow:{"nodes": []}')
    assert read_texts(data) == {"prompt": GRAPH, "workflow": '{"nodes": []}'}
    info = read_text(data)
    assert info.source == "comfyui" and info.unknown["Node 1"] == "KSampler"
    data = tagged("JPEG", ImageDescription='Workflow: {"nodes": []}', Make=f"Prompt: {GRAPH}")
    assert read_text(data).source == "comfyui"
    assert read_texts(tagged("JPEG", Make="Canon", Model="EOS 5D")) == {}


def test_a_comment_in_the_first_directory_is_one_too() -> None:
    assert read_texts(tagged("JPEG", UserComment=PLAIN)) == {"UserComment": PLAIN}
    assert read_texts(tagged("JPEG", XPComment=TEXT.encode("utf-16-le") + b"\0\0")) == {"XPComment": TEXT}


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
@pytest.mark.parametrize(
    "inside",
    [
        LISTED.format(escaped(PLAIN)),
        f"<exif:UserComment>{escaped(PLAIN)}</exif:UserComment>",
        f"<dc:description><rdf:Alt><rdf:li>{escaped(PLAIN)}</rdf:li><rdf:li>other</rdf:li></rdf:Alt></dc:description>",
    ],
)
def test_xmp_is_read_as_elements(kind: str, inside: str) -> None:
    info = read_text(with_xmp((XMP % inside).encode(), kind))
    assert (info.source, info.fields["prompt"], info.fields["seed"]) == ("a1111", "a red fox", 77)


def test_xmp_is_read_as_attributes_and_in_a_png() -> None:
    xmp = XMP.replace('rdf:about=""', f'rdf:about="" exif:UserComment="{escaped(PLAIN)}"') % ""
    for data in (with_xmp(xmp.encode()), with_xmp(xmp.encode("utf-16")), png(**{"XML:com.adobe.xmp": xmp})):
        assert read_texts(data) == {"UserComment": PLAIN}


def test_every_comment_of_a_jpeg_is_read() -> None:
    file = BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG", comment="CREATOR: gd-jpeg v1.0")
    data, second = file.getvalue(), TEXT.encode()
    data = data[:2] + b"\xff\xfe" + (len(second) + 2).to_bytes(2) + second + data[2:]
    assert read_texts(data) == {"comment": TEXT, "comment 2": "CREATOR: gd-jpeg v1.0"}
    assert read_text(data).fields["seed"] == 77


# The hostile


@pytest.mark.parametrize("name", [b"zTXt", b"iTXt"])
def test_a_bomb_behind_the_pixels_is_one_clear_error(name: bytes) -> None:
    bomb = zlib.compress(b"x" * 2**26)
    content = b"parameters\0\0" + bomb if name == b"zTXt" else b"parameters\0\1\0\0\0" + bomb
    with pytest.raises(RequestError, match="less than 1 MB of text"):
        read_texts(raw_chunk(png(), name, content, behind=True))


NASTY_XMP = {
    "entities": '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>' + XMP % LISTED.format("&b;"),
    "depth": "<description>" * 30_000 + "</description>" * 30_000,
    "width": XMP % ("<dc:description>x</dc:description>" * 20_000),
    "an open end": XMP[:200],
    "no name": XMP % "<other:UserComment>x</other:UserComment>",
}


@pytest.mark.parametrize("name", NASTY_XMP)
def test_nasty_xmp_costs_little_and_raises_nothing(name: str) -> None:
    began = time.process_time()
    for data in (png(**{"XML:com.adobe.xmp": NASTY_XMP[name]}), with_xmp(NASTY_XMP[name].encode(), "WEBP")):
        assert "aaaa" not in read_texts(data).get("UserComment", "")
    assert time.process_time() - began < 2


WHOLE = {
    "PNG": raw_chunk(
        commented(COMMENTS["JIS"], "PNG"), b"iTXt", b"parameters\0\0\0\0\0" + TEXT.encode(), behind=True
    ),
    "JPEG": commented(COMMENTS["UTF-16, the low byte first"]),
    "WEBP": with_xmp((XMP % LISTED.format("x")).encode(), "WEBP"),
}


@settings(deadline=None)
@given(st.sampled_from(list(WHOLE)), st.binary(max_size=60), st.floats(0, 1), st.integers(0, 30))
def test_no_damage_brings_anything_but_a_clear_error(kind: str, noise: bytes, share: float, cut: int) -> None:
    at = int(share * len(WHOLE[kind]))
    with suppress(DarkroomError):
        read_text(WHOLE[kind][:at] + noise + WHOLE[kind][at + cut :])


@settings(deadline=None)
@given(st.binary(max_size=80))
def test_any_comment_is_text(data: bytes) -> None:
    decode_comment(data).encode("utf-8")
