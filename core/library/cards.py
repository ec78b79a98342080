"""darkroom.json beside a model: what its maker knows better than its family's usual values."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from core.errors import CheckpointError
from core.families import LatentFormat


class Card(BaseModel):
    """What may stand there; what does not is the family's."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    title: str | None = None
    sampler: str | None = None
    guidance_scale: float | None = None
    steps: int | None = None
    prediction_type: Literal["epsilon", "v_prediction"] | None = None
    examples: list[str] = []
    latent_rgb_factors: list[list[float]] | None = None
    latent_rgb_bias: list[float] | None = None

    @property
    def latent_format(self) -> LatentFormat | None:
        if self.latent_rgb_factors is None:
            return None
        rows = tuple((r, g, b) for r, g, b in self.latent_rgb_factors)
        r, g, b = self.latent_rgb_bias or (0.0, 0.0, 0.0)
        return LatentFormat(rows, (r, g, b))


def read_card(path: Path) -> Card:
    if not path.exists():
        return Card()
    try:
        return Card.model_validate_json(path.read_bytes())
    except ValidationError as error:
        field_name = ".".join(str(part) for part in error.errors()[0]["loc"]) or "the file"
        raise CheckpointError(f"its {path.name} is not right: {field_name}") from None
