"""Pictures in and out: read from files, laid out for a run and put back, written with what they were made with.

It knows pictures and requests: nothing of models, of the loop, or of where pictures are kept.
"""

from core.pictures.file_hashes import said_hashes
from core.pictures.images import fit, read_mask, read_picture
from core.pictures.metadata import TOOLS, PictureInfo, encode_png, read_text
from core.pictures.replay import compare

__all__ = [
    "TOOLS",
    "PictureInfo",
    "compare",
    "encode_png",
    "fit",
    "read_mask",
    "read_picture",
    "read_text",
    "said_hashes",
]
