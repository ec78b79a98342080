"""What checked sets of parameters have in common: their types, their errors, and what their fields take in words."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from PIL.Image import Image
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from core.errors import RequestError
from core.request.preprocessors import CONTROL_TYPES, PREPROCESSORS
from core.samplers import SAMPLERS

PICTURES = ("image", "mask")  # the fields that hold pictures, in a request and in a control
MOST_PICTURES = 8  # in a JSON text: each is read before it is known whether the text is a request at all


def _printable(text: str) -> str:
    if "\0" in text:
        raise PydanticCustomError("nul", "holds a NUL character")
    return text


def _picture(value: object) -> Image:
    """A private copy of a picture."""
    if not isinstance(value, Image):
        raise PydanticCustomError("picture", "not a picture")
    return value.copy()


def fingerprint(image: Image) -> str:
    """ "sha256:…" of a picture's mode, size and pixels, whatever file it came from."""
    header = f"{image.mode} {image.width} {image.height}\n".encode()
    return "sha256:" + hashlib.sha256(header + image.tobytes()).hexdigest()


Picture = Annotated[Image, PlainValidator(_picture), PlainSerializer(fingerprint, return_type=str)]
Text = Annotated[str, AfterValidator(_printable)]
SecondText = Annotated[Text | None, AfterValidator(lambda text: text or None)]  # empty is none
Side = Annotated[int | None, Field(ge=64, le=4096, multiple_of=8, description="In pixels")]
Name = Annotated[str, Field(min_length=1, max_length=300), AfterValidator(_printable)]


class Parameters(BaseModel):
    """A frozen set of checked fields; whatever is wrong comes out as one `RequestError`."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True
    )

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _explain(type(self), error) from None

    def replace(self, **changes: Any) -> Self:
        """The same with `changes`, checked again (pydantic's `model_copy` checks nothing)."""
        return type(self)(**{**dict(self), **changes})

    @classmethod
    def from_json(cls, text: str | bytes, picture: Callable[[str], Image] | None = None) -> Self:
        """Read what `model_dump_json` wrote; `picture` finds an image by its "sha256:…".

        Raises RequestError for anything that is not such a text.
        """
        found = 0

        def with_pictures(values: dict[str, Any]) -> dict[str, Any]:
            nonlocal found
            named = [name for name in PICTURES if picture and isinstance(values.get(name), str)]
            found += len(named)
            if found > MOST_PICTURES:
                raise ValueError("more pictures than any request has")
            return values | {name: picture(values[name]) for name in named if picture}

        try:
            values = json.loads(text, object_hook=with_pictures)
        except (ValueError, RecursionError):  # no JSON, a number of 5,000 digits, brackets without end
            values = None
        if not isinstance(values, dict):
            raise RequestError("request", "this text", f"a JSON object of {cls.__name__}", "Request")
        return cls(**values)


def bounds(field: FieldInfo) -> dict[str, Any]:
    """A field's constraints by name, from its declaration: any of ge, le, multiple_of, min_length, max_length."""
    known = ("ge", "le", "multiple_of", "min_length", "max_length")
    return {name: getattr(rule, name) for rule in field.metadata for name in known if hasattr(rule, name)}


def allowed(field: FieldInfo) -> str:
    """What a field takes, in words: "a whole number from 1 to 150"."""
    limits = bounds(field)
    if field.title == "Sampler":
        return "one of " + ", ".join(SAMPLERS)
    if field.title == "Preprocessor":
        return "one of " + ", ".join(PREPROCESSORS)
    if field.title == "Map shows":
        return "one of " + ", ".join(CONTROL_TYPES)
    if "ge" in limits:
        kind = "a whole number" if int in (field.annotation, *get_args(field.annotation)) else "a number"
        if "multiple_of" in limits:
            kind = f"a multiple of {limits['multiple_of']}"
        return f"{kind} from {limits['ge']} to {limits['le']}"
    if float in get_args(field.annotation):
        return "a number"
    if "max_length" in limits and get_origin(field.annotation) is tuple:
        return f"a list of at most {limits['max_length']}"
    if "max_length" in limits:
        return f"text of at most {limits['max_length']:,} characters without NUL or broken Unicode"
    if "Image" in str(field.annotation):
        return "a picture"
    if field.annotation is bool:
        return "true or false"
    if get_origin(field.annotation) is Literal:
        return "one of " + ", ".join(get_args(field.annotation))
    if field.title == "Mask colour":
        return "a colour such as #808080"
    for kind in get_args(field.annotation):
        if isinstance(kind, type) and issubclass(kind, Parameters):
            return "an object of " + ", ".join(kind.model_fields)
    return "a name of 1 to 300 characters"


def _explain(model: type[Parameters], error: ValidationError) -> RequestError:
    """pydantic's first complaint in our words; pydantic's own text echoes the input and names types."""
    first = error.errors(include_url=False)[0]
    nested = first.get("ctx", {}).get("error")
    name, *rest = first["loc"]
    path = str(name) + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in rest)
    if first["type"] == "extra_forbidden" or name not in model.model_fields:
        return RequestError(path, path, "one of " + ", ".join(model.model_fields), "Unknown field")
    field = model.model_fields[str(name)]
    label = field.title
    if isinstance(nested, RequestError):
        return RequestError(f"{path}.{nested.field}", nested.value, nested.allowed, f"{label}: {nested.label}")
    if first["type"] == "missing":
        return RequestError(path, None, allowed(field), label)
    return RequestError(path, first["input"], allowed(field), label)
