"""Two things timed in turns, so that a machine whose speed drifts is fair to both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from tqdm import tqdm


@dataclass(frozen=True)
class Ratio:
    """The median of pairwise ratios a / b, their middle half, and the medians in seconds."""

    median: float
    low: float
    high: float
    seconds: tuple[float, float]

    def __str__(self) -> str:
        a, b = self.seconds
        return f"{self.median:.3f} ({self.low:.3f} … {self.high:.3f})   {a:.4f} s / {b:.4f} s"


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def compare(a: Callable[[], object], b: Callable[[], object], pairs: int, label: str) -> Ratio:
    """Time `a` and `b` in turns, ABBA, after one uncounted run of each."""
    a(), b()
    times: list[tuple[float, float]] = []
    for index in tqdm(range(pairs), desc=label, leave=False):
        first, second = (a, b) if index % 2 == 0 else (b, a)
        one, two = seconds(first), seconds(second)
        times.append((one, two) if index % 2 == 0 else (two, one))
    ratios = sorted(one / two for one, two in times)
    quarter = len(ratios) // 4
    medians = statistics.median(t[0] for t in times), statistics.median(t[1] for t in times)
    return Ratio(statistics.median(ratios), ratios[quarter], ratios[-1 - quarter], medians)
