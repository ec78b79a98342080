"""What a request may hold beside plain values: ControlNet units, LoRAs, sides to extend, a second pass."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from core.errors import RequestError
from core.request.parameters import Name, Parameters, Picture
from core.request.preprocessors import CONTROL_TYPES, PREPROCESSORS

UPSCALERS = LANCZOS, LATENT = "Lanczos", "Latent"  # those of a second pass that need no model
ResizeMode = Literal["stretch", "crop", "pad"]
ControlMode = Literal["balanced", "prompt", "control"]
MOST_WEIGHT = 10  # of a LoRA, either way
THRESHOLDS = ("threshold_a", "threshold_b")  # a control's fields, in the order of its preprocessor's thresholds


def _preprocessor(name: str) -> str:
    if name not in PREPROCESSORS:
        raise PydanticCustomError("preprocessor", "unknown preprocessor")
    return name


def _control_type(name: str) -> str:
    if name not in CONTROL_TYPES:
        raise PydanticCustomError("control_type", "unknown kind of map")
    return name


class Control(Parameters):
    """One ControlNet unit: `net` steers the picture towards `image` between two shares of the steps."""

    net: Name = Field(title="Network", description="A name from models/controlnet")
    image: Picture | None = Field(
        None, title="Control picture", description="What the network should follow; none: the source picture"
    )
    preprocessor: Annotated[str, AfterValidator(_preprocessor)] = Field(
        "none", title="Preprocessor", description="Makes the control map from the picture"
    )
    threshold_a: float | None = Field(
        None, title="First threshold", description="Of the preprocessor; none: its own value"
    )
    threshold_b: float | None = Field(
        None, title="Second threshold", description="Of the preprocessor; none: its own value"
    )
    control_type: Annotated[str, AfterValidator(_control_type)] | None = Field(
        None, title="Map shows", description="For Union networks; none: what the preprocessor makes"
    )
    resize_mode: ResizeMode = Field(
        "stretch", title="Resize", description="What happens to a control picture of another shape than the result's"
    )
    weight: float = Field(
        1.0, ge=0, le=2, title="Weight", description="0 has no influence", json_schema_extra={"step": 0.05}
    )
    start: float = Field(
        0.0,
        ge=0,
        le=1,
        title="Start",
        description="Share of the steps before it begins",
        json_schema_extra={"step": 0.01},
    )
    end: float = Field(
        1.0,
        ge=0,
        le=1,
        title="End",
        description="Share of the steps after which it stops",
        json_schema_extra={"step": 0.01},
    )
    mode: ControlMode = Field(
        "balanced",
        title="Priority",
        description="Prompt weakens the network where it is coarse; control also takes it from the negative prompt",
    )

    @property
    def thresholds(self) -> tuple[float | None, ...]:
        return self.threshold_a, self.threshold_b

    @property
    def shows(self) -> str | None:
        """What a Union is told that the map shows."""
        return self.control_type or PREPROCESSORS[self.preprocessor].control_type


class Lora(Parameters):
    """One LoRA of models/loras, merged with `weight`."""

    name: Name = Field(title="LoRA", description="A file of models/loras, without its ending")
    weight: float = Field(
        1.0,
        ge=-MOST_WEIGHT,
        le=MOST_WEIGHT,
        title="Weight",
        description="0 has no influence",
        json_schema_extra={"step": 0.05, "usual": [-2, 2]},
    )
    text_encoder_weight: float | None = Field(
        None,
        ge=-MOST_WEIGHT,
        le=MOST_WEIGHT,
        title="Text weight",
        description="Its weight in the text encoders; none: the same",
        json_schema_extra={"step": 0.05},
    )

    @property
    def has_influence(self) -> bool:
        return bool(self.weight or self.for_text)

    @property
    def for_text(self) -> float:
        """The weight in the text encoders."""
        return self.weight if self.text_encoder_weight is None else self.text_encoder_weight


class Outpaint(Parameters):
    """How far the source picture is extended at each side."""

    left: int = Field(0, ge=0, le=2048, title="Left", description="In pixels")
    right: int = Field(0, ge=0, le=2048, title="Right", description="In pixels")
    up: int = Field(0, ge=0, le=2048, title="Up", description="In pixels")
    down: int = Field(0, ge=0, le=2048, title="Down", description="In pixels")

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        if not any(self.sides):
            raise RequestError("left", 0, "at least one side above 0", "Left")

    @property
    def sides(self) -> tuple[int, int, int, int]:
        """Left, up, right, down: Pillow's order."""
        return self.left, self.up, self.right, self.down


class Hires(Parameters):
    """A second pass: every picture is enlarged and then changed a little, as image to image does."""

    scale: float = Field(
        2.0,
        ge=1.25,
        le=4,
        title="Scale",
        description="How many times as wide and high",
        json_schema_extra={"step": 0.05},
    )
    upscaler: Name = Field(
        LANCZOS, title="Upscaler", description="Lanczos, Latent, or one of models/upscalers (ESRGAN, Swin2SR)"
    )
    strength: float = Field(
        0.4,
        ge=0,
        le=1,
        title="Strength",
        description="How much of the enlarged picture may change",
        json_schema_extra={"step": 0.01},
    )
    steps: int | None = Field(
        None, ge=1, le=150, title="Steps", description="Of the second pass; none: as many as before"
    )
