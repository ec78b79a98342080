"""Pictures as they come in: which formats are read, how large they may be, and what identifies one."""

from __future__ import annotations

import hashlib

from PIL.Image import Image


def fingerprint(image: Image) -> str:
    """ "sha256:…" of a picture's mode, size and pixels, whatever file it came from."""
    header = f"{image.mode} {image.width} {image.height}\n".encode()
    return "sha256:" + hashlib.sha256(header + image.tobytes()).hexdigest()
