"""How often: so many at once, then one every so many seconds, counted for each key (an address, or all together)."""

from __future__ import annotations

from collections.abc import Callable

MOST_KEYS = 10_000  # beyond them the one counted longest ago is forgotten: many addresses fill no memory


class Rate:
    """A bucket for each key, kept as the time at which it will be full again (GCRA)."""

    def __init__(self, at_once: int, seconds_each: float, clock: Callable[[], float]) -> None:
        self._slack = (at_once - 1) * seconds_each
        self._each = seconds_each
        self._clock = clock
        self._full_at: dict[str, float] = {}

    def wait(self, key: str) -> float:
        """Seconds until `key` may have one more; 0 when now."""
        return max(0.0, self._full_at.get(key, 0.0) - self._clock() - self._slack)

    def count(self, key: str) -> None:
        """`key` has one more."""
        now = self._clock()
        self._full_at[key] = max(self._full_at.pop(key, now), now) + self._each
        while len(self._full_at) > MOST_KEYS:
            del self._full_at[next(iter(self._full_at))]

    def forgive(self, key: str) -> None:
        """One of `key` does not count after all."""
        if key in self._full_at:
            self._full_at[key] -= self._each
