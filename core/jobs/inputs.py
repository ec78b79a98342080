"""The pictures that jobs begin from, kept by their fingerprints, so that any job can run again."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL.Image import Image
from PIL.PngImagePlugin import PngImageFile

from core.errors import NotFound, RequestError, StorageError
from core.request import GenerationRequest, fingerprint
from core.storage import storage, write_file

KEEPABLE_MODES = ("1", "L", "LA", "RGB", "RGBA", "I;16")  # Pillow's modes that a PNG gives back as they were


@dataclass(frozen=True)
class Inputs:
    """A folder with one PNG for each fingerprint ("sha256:…"), named after its digits."""

    folder: Path

    def put(self, name: str, image: Image) -> int:
        """Keep the picture with the fingerprint `name`. Returns the bytes of its file."""
        path = self._path(name)
        with storage():
            if not path.exists():
                file = BytesIO()
                image.save(file, "PNG", compress_type=zlib.Z_RLE)  # see metadata.encode_png
                write_file(path, file.getvalue())
            return path.stat().st_size

    def read(self, name: str) -> bytes:
        """The PNG. Raises NotFound if it was deleted by hand."""
        try:
            return self._path(name).read_bytes()
        except OSError:
            raise NotFound("This picture's file is no longer on disk.") from None

    def get(self, name: str) -> Image:
        """Raises StorageError if the picture was deleted by hand."""
        try:
            with PngImageFile(self._path(name)) as file:
                file.load()
                return file.copy()
        except Exception:  # Pillow raises whatever its decoder trips over
            raise StorageError("A picture that this job began from is no longer on disk.") from None

    def _path(self, name: str) -> Path:
        return self.folder / f"{name.removeprefix('sha256:')}.png"


def input_pictures(request: GenerationRequest) -> dict[str, Image]:
    """What `request` begins from, by fingerprint. Raises RequestError for a mode that a PNG would not give back."""
    pictures = [("image", request.image), ("mask", request.mask)]
    pictures += [(f"controls[{k}].image", control.image) for k, control in enumerate(request.controls)]
    for field, image in pictures:
        if image and image.mode not in KEEPABLE_MODES:
            raise RequestError(field, f"mode {image.mode}", "a picture of mode " + ", ".join(KEEPABLE_MODES))
    return {fingerprint(image): image for _, image in pictures if image}
