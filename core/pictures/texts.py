"""Where a picture's file keeps its texts, and how their bytes are read: PNG's chunks, EXIF, XMP, a JPEG's comments.

Tools write them against the standards: what the bytes say of themselves is tried first, then what makes sense. No
pixel is decoded, and Pillow's bounds hold: 1 MB for each compressed text, 64 MB for all.
"""

from __future__ import annotations

import codecs
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree

from PIL.ExifTags import IFD, Base
from PIL.Image import Exif
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import iTXt

from core.errors import RequestError
from core.pictures.images import PNG, opened

USER_COMMENT = "UserComment"
TEXT_LIMIT = 2**20  # characters of one text; Pillow refuses compressed ones that grow beyond as many bytes

TEXT_CHUNKS = (b"IHDR", b"tEXt", b"zTXt", b"iTXt", b"eXIf")
RAW_PROFILE = "Raw profile type "  # ImageMagick's name of EXIF and XMP as hexadecimal text
XMP_IN_PNG = "XML:com.adobe.xmp"
XMP_MARK = b"http://ns.adobe.com/xap/1.0/\0"
EXIF_MARK = b"Exif\0\0"

UTF_16 = "utf-16"  # in either order of its bytes
ENCODINGS: Mapping[bytes, tuple[str, ...]] = {
    b"UNICODE\0": (UTF_16,),
    b"ASCII\0\0\0": (),
    b"JIS\0\0\0\0\0": ("iso2022_jp", "utf-8", "shift_jis", "euc_jp"),
    b"\0\0\0\0\0\0\0\0": (),
    b"UTF-8\0\0\0": (),  # no name by the standard
    b"UTF8\0\0\0\0": (),
}
"""By the eight bytes before a user's comment that name its encoding; UTF-8 shows itself, whatever they say."""
SURE = 16  # bytes that all spell ASCII are no UTF-16
IN_EXIF = (Base.UserComment, Base.ImageDescription, Base.XPComment, Base.Software)
KEYED = re.compile(r"(\w+):\s*(?=\{)")  # ComfyUI's "prompt:{…}", in whichever tag comes next
TELLING = re.compile(r"[a-z][^\x00-\xbf]|[^\x00-\xbf][a-z]|[‐-…\U00010000-\U0010ffff]")
"""What no accident makes of Latin 1: a foreign letter within a word, a typographic mark, an emoji."""
IN_XMP = (USER_COMMENT, "description", "ImageDescription", "CreatorTool", "parameters", "prompt", "workflow")
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"


def read_texts(source: bytes | Path) -> dict[str, str]:
    """Every text of a PNG, JPEG or WebP file that may tell of its making, by its name there.

    Raises RequestError for any other file, or one whose compressed text is a bomb; never anything else.
    """
    try:
        data = source if isinstance(source, bytes) else source.read_bytes()
        file = opened(_without_pixels(data) if data.startswith(PNG) else data)
        assert file
        with file:
            return {name: text for name, text in _texts(file).items() if text.strip()}
    except Exception:  # Pillow raises whatever its parsers trip over
        use = "a PNG, JPEG or WebP picture with less than 1 MB of text"
        raise RequestError("image", "this file", use, "Picture") from None


def _without_pixels(data: bytes) -> bytes:
    """The header and the texts of a PNG alone, so that those which stand behind its pixels are read as the others."""
    kept, at = [PNG], len(PNG)
    while at + 12 <= len(data):
        end = at + 12 + struct.unpack_from(">I", data, at)[0]
        if data[at + 4 : at + 8] in TEXT_CHUNKS and end <= len(data):
            kept.append(data[at:end])
        at = end
    return b"".join(kept) + b"\0\0\0\0IEND\xaeB`\x82"


def _texts(file: ImageFile) -> dict[str, str]:
    texts = {str(key): _sensible(value) for key, value in file.info.items() if isinstance(value, str)}
    profiles = [_unhexed(texts.pop(name)) for name in list(texts) if name.startswith(RAW_PROFILE)]
    exif = [file.info.get("exif", b""), *(each for each in profiles if each.startswith(EXIF_MARK))]
    xmp = [
        file.info.get("xmp", b""),
        texts.get(XMP_IN_PNG, "").encode(),
        *(each.removeprefix(XMP_MARK) for each in profiles if XMP_MARK in each[:40]),
    ]
    described = _in_xmp(decoded(max(xmp, key=len)))
    if described:
        texts.pop(XMP_IN_PNG, None)
    return {**_comments(file), **described, **_in_exif(max(exif, key=len)), **texts}


def _sensible(text: str) -> str:
    """A PNG's text that is Latin 1 by the standard, and UTF-8 by many tools: that, if it is more than an accident."""
    if not isinstance(text, iTXt):
        with suppress(UnicodeError):
            utf_8 = text.encode("latin-1").decode("utf-8")
            if len({character for character in utf_8 if character >= "À"}) > 1 or TELLING.search(utf_8):
                return utf_8
    return str(text)


def _unhexed(profile: str) -> bytes:
    """The bytes behind a name and a length, a line each."""
    with suppress(ValueError):
        return bytes.fromhex("".join(profile.strip().split("\n")[2:]))
    return b""


def _comments(file: ImageFile) -> dict[str, str]:
    found = [data for name, data in file.applist if name == "COM"] if isinstance(file, JpegImageFile) else []
    return {f"comment {number}" if number > 1 else "comment": decoded(data) for number, data in enumerate(found, 1)}


# EXIF


def _in_exif(data: bytes) -> dict[str, str]:
    """The texts of the tags where tools write. A tag that begins with a name and a colon is a text of that name."""
    texts: dict[str, str] = {}
    for tag, value in _tags(data):
        text = _sensible(value) if isinstance(value, str) else _tag_text(tag, value)
        keyed = KEYED.match(text)
        if keyed:
            texts[keyed[1].lower()] = text[keyed.end() :]
        elif tag in IN_EXIF:
            texts[Base(tag).name] = text
    return texts


def _tags(data: bytes) -> Iterator[tuple[int, object]]:
    """Every tag of both directories that can be read; damaged EXIF says nothing."""
    exif = Exif()
    with suppress(Exception):
        exif.load(data)
        yield from _readable(exif)
        yield from _readable(exif.get_ifd(IFD.Exif))


def _readable(tags: Mapping[int, object]) -> Iterator[tuple[int, object]]:
    for tag in list(tags):
        with suppress(Exception):  # values are read as they are asked for
            yield tag, tags[tag]


def _tag_text(tag: int, value: object) -> str:
    if not isinstance(value, bytes):
        return ""
    if tag == Base.XPComment:
        return decoded(value, "utf-16-le")
    return decode_comment(value) if tag == Base.UserComment else ""


def decode_comment(data: bytes) -> str:
    """A user's comment, of which eight bytes may name the encoding. Those of UTF-16 come in both orders, whatever the
    order of the EXIF around them; what is called UTF-16 may be UTF-8; and where the eight are no name, they are text.
    """
    encodings = ENCODINGS.get(data[:8].upper())
    if encodings is None:
        return decoded(data)
    body = data[8:]
    is_ascii = len(body) >= SURE and all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in body)
    return decoded(body, *(() if is_ascii else encodings))


def decoded(data: bytes, *encodings: str) -> str:
    """Bytes by the first of `encodings` that they are whole text in, then UTF-8, UTF-16 if it shows, and Latin 1."""
    shows = b"\0" in data or data.startswith((codecs.BOM_UTF16_BE, codecs.BOM_UTF16_LE))
    for encoding in (*encodings, "utf-8", *([UTF_16] if shows else [])):
        with suppress(UnicodeError):
            text = _utf_16(data) if encoding == UTF_16 else data.decode(encoding)
            if "\0" not in text.rstrip("\0"):
                return text.rstrip("\0").removeprefix("\ufeff")
    return data.decode("latin-1").rstrip("\0")


def _utf_16(data: bytes) -> str:
    """UTF-16 in the order that its mark says, else the one by which more of it is ASCII, or, with none of it, its
    characters are of fewer blocks; those of a language stand together. Raises UnicodeError.
    """
    data = data[: len(data) // 2 * 2]
    if data.startswith((codecs.BOM_UTF16_BE, codecs.BOM_UTF16_LE)):
        return data.decode("utf-16")

    def sense(encoding: str) -> tuple[int, int]:
        codes = [ord(character) for character in data.decode(encoding, "replace")]
        return sum(code < 128 for code in codes), -len({code >> 8 for code in codes})

    return data.decode(max("utf-16-be", "utf-16-le", key=sense))


# XMP


def _in_xmp(text: str) -> dict[str, str]:
    """The properties where tools write, as elements or attributes; of a list the first. Nothing from damaged XML, or
    from XML that would declare entities, as XMP never does.
    """
    if len(text) > TEXT_LIMIT or "<!DOCTYPE" in text:
        return {}
    try:
        root = ElementTree.fromstring(text.strip("\ufeff \0\n\r\t"))
    except (ElementTree.ParseError, ValueError, RecursionError):
        return {}
    texts: dict[str, str] = {}
    for element in root.iter():
        for name, value in element.attrib.items():
            _keep(texts, name, value)
        if _local(element.tag) in IN_XMP and _local(element.tag) not in texts:
            item = element.find(f"*/{RDF}li")
            _keep(texts, element.tag, (element if item is None else item).text or "")
    return texts


def _keep(texts: dict[str, str], name: str, text: str) -> None:
    if _local(name) in IN_XMP and text.strip():
        texts.setdefault(_local(name), text)


def _local(name: object) -> str:
    """A name of XML without its namespace; of a comment or an instruction, none."""
    return str(name).rpartition("}")[2]
