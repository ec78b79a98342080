"""What a request's prompts tell the model at each step, and their encodings, kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from core.prompts import Part, Time, compose, parse
from core.request import GenerationRequest, reject
from core.sizes import MB

if TYPE_CHECKING:
    from core.families.work import Conditioning, EncodedPrompt, Model, Texts

MOST_WORDINGS = 100  # of one prompt in one run
MOST_TOLD = 1_280  # chunks times wordings, for every picture and prediction: they are all in memory at once


class PromptCache:
    """The prompts used last, in `capacity` bytes; always the last one. A key names all that shapes an encoding:
    encoder, LoRAs, clip skip, text.
    """

    def __init__(self, capacity: int = 64 * MB) -> None:
        self._capacity = capacity
        self._kept: OrderedDict[Hashable, EncodedPrompt] = OrderedDict()

    def get(self, key: Hashable, encode: Callable[[], EncodedPrompt]) -> EncodedPrompt:
        found = self._kept.pop(key, None) or encode()
        self._kept[key] = found
        while len(self._kept) > 1 and sum(each.nbytes for each in self._kept.values()) > self._capacity:
            self._kept.popitem(last=False)
        return found

    def clear(self) -> None:
        self._kept.clear()


class Line(NamedTuple):
    """One prompt of those that a step predicts with: what each text encoder reads of it."""

    parts: tuple[Part, Part]
    negative: bool = False

    def at(self, time: Time) -> Texts:
        return tuple(part.at(time) for part in self.parts)


def lines(request: GenerationRequest) -> list[Line]:
    """The prompts of a resolved request: (negative, positive, …) with guidance, else (positive,)."""
    positive = [_both(part, request.prompt_2) for part in compose(request.prompt)]
    if request.predictions == 1:
        return positive
    return [_both(parse(request.negative_prompt), request.negative_prompt_2)._replace(negative=True), *positive]


def weights(request: GenerationRequest) -> tuple[float, ...]:
    """Of the prompts that AND joins."""
    return tuple(part.weight for part in compose(request.prompt))


def _both(first: Part, second: str | None) -> Line:
    return Line((first, first if second is None else parse(second)))


@dataclass(frozen=True)
class Prompts:
    """Tells `model` what a request says. `encoders` names what shapes an encoding; `before` as in Time."""

    model: Model
    encoders: Hashable = ()
    cache: PromptCache = field(default_factory=PromptCache)
    before: int = 0

    def conditioning(self, request: GenerationRequest, evaluations: int) -> Sequence[Conditioning]:
        """For each of a run's `evaluations` of the model; the very same object as long as nothing changes."""
        steps, asked = request.steps_run, lines(request)
        times = [Time(index * steps // evaluations, steps, self.before) for index in range(evaluations)]
        said = [tuple(line.at(time) for line in asked) for time in times]
        distinct = list(dict.fromkeys(said))
        if len(distinct) > MOST_WORDINGS:
            raise reject("prompt", f"{len(distinct)} wordings", f"at most {MOST_WORDINGS} in one run")
        negatives = [line.negative for line in asked]
        every = [pair for wordings in distinct for pair in zip(wordings, negatives, strict=True)]
        chunks, negative = max((self.model.count_chunks(texts), negative) for texts, negative in every)
        if chunks > self.model.facts.most_chunks:
            field_name = "negative_prompt" if negative else "prompt"
            raise reject(field_name, f"{chunks} chunks of tokens", f"at most {self.model.facts.most_chunks}")
        if (most := MOST_TOLD // (request.batch_size * len(asked))) < chunks * len(distinct):
            told = f"{len(distinct)} wordings of {chunks} chunks of tokens"
            raise reject("prompt", told, f"at most {most} chunks in all for so many pictures")
        made = {}
        for wordings in distinct:
            encoded = [
                self._encode(texts, request.clip_skip, negative, chunks)
                for texts, negative in zip(wordings, negatives, strict=True)
            ]
            made[wordings] = self.model.conditioning(encoded, request)
        return [made[wordings] for wordings in said]

    def _encode(self, texts: Texts, clip_skip: int, negative: bool, chunks: int) -> EncodedPrompt:
        return self.cache.get(
            (self.encoders, texts, clip_skip, negative, chunks),
            lambda: self.model.encode_prompt(texts, clip_skip, negative, chunks),
        )
