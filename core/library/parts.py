"""The parts that models consist of: networks and tokenizers on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from core.errors import CheckpointError
from core.library.headers import count_parameters, read_all_shapes, read_json, shards, weights_in
from core.library.shapes import Config
from core.library.vocabulary import SHIPPED
from core.memory import Key

T5 = "T5EncoderModel"
SWIN2SR = "Swin2SRForImageSuperResolution"
DEPTH = ("DepthAnythingForDepthEstimation", "DPTForDepthEstimation")
POSE = ("VitPoseForPoseEstimation",)
CLASSES = {
    "CLIPTokenizer": "transformers",
    "CLIPTextModel": "transformers",
    "CLIPTextModelWithProjection": "transformers",
    "T5TokenizerFast": "transformers",
    "T5Tokenizer": "transformers",
    T5: "transformers",
    "UNet2DConditionModel": "diffusers",
    "SD3Transformer2DModel": "diffusers",
    "FluxTransformer2DModel": "diffusers",
    "ControlNetModel": "diffusers",
    "ControlNetUnionModel": "diffusers",
    "SD3ControlNetModel": "diffusers",
    "FluxControlNetModel": "diffusers",
    "AutoencoderKL": "diffusers",
    "AutoencoderTiny": "diffusers",
    SWIN2SR: "transformers",
    "RRDBNet": "core.library.esrgan",
    **dict.fromkeys((*DEPTH, *POSE), "transformers"),
}
"""The classes that a model folder may name, and the library of each; no other is ever imported."""


@dataclass(frozen=True)
class Source:
    """How a part of a single file is made: which keys it takes, and its config. A tokenizer takes none."""

    prefix: str
    config: Config


@dataclass(frozen=True)
class Part:
    """A component of a checkpoint: its folder, the weights in it (None: a tokenizer) and what identifies them.

    Of a single file, `folder` is only the name of the part in it, and `source` says how it is made.
    """

    name: str
    folder: Path
    class_name: str
    weights: Path | None = None
    parameters: int = 0
    source: Source | None = field(default=None, repr=False)

    @property
    def key(self) -> Key:
        """Raises CheckpointError if its file is no longer there."""
        try:
            files = self.files or [self.folder.parent if self.source else self.folder]
            found = [file.stat() for file in files]
        except (OSError, CheckpointError):
            label, what = self.called
            raise CheckpointError(f"{label}: the file of {what} is no longer there; look for models again.") from None
        size = sum(file.st_size for file in found) if self.weights else 0
        return Key(self.folder, size, max(file.st_mtime_ns for file in found))

    @property
    def files(self) -> list[Path]:
        """Those of its weights."""
        return shards(self.weights) if self.weights else []

    @property
    def called(self) -> tuple[str, str]:
        """What it is called in messages: a label, and itself."""
        return ("ControlNet", self.folder.name) if self.name == "controlnet" else ("Model", f"its {self.name}")


def shipped_tokenizer(encoder: str, class_name: str, pad_token: str) -> Part:
    """That of the text encoder called `encoder`, which is of `class_name`."""
    kind = "T5Tokenizer" if class_name == T5 else "CLIPTokenizer"
    name = encoder.replace("text_encoder", "tokenizer")
    return Part(name, SHIPPED[kind][0] / pad_token, kind, source=Source("", {"pad_token": pad_token}))


def sole_part(name: str, folder: Path, class_names: Sequence[str]) -> Part:
    """The network in a folder of transformers or diffusers. Raises CheckpointError if it is of another class, or
    damaged.
    """
    config = read_json(folder / "config.json")
    made_by = config.get("architectures") or [config.get("_class_name")]
    for class_name in class_names:
        if made_by == [class_name]:
            weights = weights_in(folder)
            return Part(name, folder, class_name, weights, count_parameters(read_all_shapes(weights)))
    raise CheckpointError(f"it is no {' or '.join(class_names)}")


def find_decoder(folder: Path) -> Part | None:
    """The tiny decoder of previews in a folder of diffusers; None if there is none. Raises CheckpointError."""
    return sole_part("preview", folder, ("AutoencoderTiny",)) if (folder / "config.json").is_file() else None
