"""Small pictures with texts where tools put them."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

from PIL import Image
from PIL.ExifTags import IFD, Base
from PIL.PngImagePlugin import PngInfo


def png(**texts: str) -> bytes:
    """A PNG with `texts`, of which what is not ASCII is UTF-8 and says so."""
    info = PngInfo()
    for key, text in texts.items():
        add = info.add_text if text.isascii() else info.add_itxt
        add(key, text)
    file = BytesIO()
    Image.new("RGB", (1, 1)).save(file, "PNG", pnginfo=info)
    return file.getvalue()


def raw_chunk(data: bytes, name: bytes, content: bytes, behind: bool = False) -> bytes:
    """A PNG with one more chunk, behind its header or behind its pixels."""
    chunk = struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    at = len(data) - 12 if behind else 33
    return data[:at] + chunk + data[at:]


def commented(comment: bytes, kind: str = "JPEG") -> bytes:
    """A file whose EXIF has `comment` as the user's."""
    file, exif = BytesIO(), Image.Exif()
    exif.get_ifd(IFD.Exif)[Base.UserComment] = comment
    Image.new("RGB", (8, 8)).save(file, kind, exif=exif.tobytes())
    return file.getvalue()


def tagged(kind: str, **tags: str | bytes) -> bytes:
    """A file whose EXIF has `tags`, by their names, in its first directory."""
    file, exif = BytesIO(), Image.Exif()
    for name, value in tags.items():
        exif[Base[name]] = value
    Image.new("RGB", (8, 8)).save(file, kind, exif=exif.tobytes())
    return file.getvalue()


def with_xmp(xmp: bytes, kind: str = "JPEG") -> bytes:
    file = BytesIO()
    Image.new("RGB", (8, 8)).save(file, kind, xmp=xmp)
    return file.getvalue()
