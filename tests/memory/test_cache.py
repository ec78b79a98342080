"""Models are kept by bytes, loaded once, and never dropped while they are used."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from core.diffusion.prompting import PromptCache
from core.families.contract import EncodedPrompt
from core.memory.cache import Key, ModelCache


def key(name: str, changed: int = 0) -> Key:
    return Key(Path(name), 1, changed)


def load(cache: ModelCache, name: str, size: int = 10) -> list[str]:
    """Use a model for a moment; says which names were loaded for it."""
    loaded: list[str] = []
    with cache.use(key(name), size, lambda: loaded.append(name) or name):
        return loaded


def test_a_model_is_loaded_once() -> None:
    cache = ModelCache(100)
    assert load(cache, "a") == ["a"]
    assert load(cache, "a") == []
    assert key("a") in cache
    assert cache.size == 10


def test_the_least_recently_used_goes_first() -> None:
    cache = ModelCache(30)
    for name in ("a", "b", "c", "a", "d"):
        load(cache, name)
    assert [name for name in "abcd" if key(name) in cache] == ["a", "c", "d"]


def test_what_is_in_use_stays_even_over_the_budget() -> None:
    cache = ModelCache(15)
    with cache.use(key("a"), 10, lambda: "a"):
        load(cache, "b")
        assert key("a") in cache
    cache.clear()
    assert cache.size == 0


def test_a_replaced_file_drops_the_old_one() -> None:
    cache = ModelCache(100)
    load(cache, "a")
    with cache.use(key("a", changed=1), 10, lambda: "new") as model:
        assert model == "new"
    assert key("a") not in cache


def test_many_who_want_the_same_wait_for_one_load() -> None:
    cache, loads, everybody = ModelCache(100), [], threading.Barrier(8, timeout=10)

    def want(_: int) -> object:
        everybody.wait()
        with cache.use(key("a"), 10, lambda: loads.append(1) or object()) as model:
            return model

    with ThreadPoolExecutor(8) as pool:
        models = list(pool.map(want, range(8)))
    assert len(loads) == 1
    assert len(set(map(id, models))) == 1


def test_a_failed_load_leaves_nothing() -> None:
    cache = ModelCache(100)

    def fail() -> None:
        raise OSError("no such file")

    with pytest.raises(OSError, match="no such file"), cache.use(key("a"), 10, fail):
        pass
    assert key("a") not in cache
    assert cache.size == 0
    assert load(cache, "a") == ["a"]


def test_prompts_are_encoded_once_and_the_oldest_are_forgotten() -> None:
    cache, encoded = PromptCache(capacity=24), list[str]()

    def read(text: str) -> EncodedPrompt:
        encoded.append(text)
        return EncodedPrompt(torch.zeros(1, len(text), 3))

    for text in ("a", "b", "a", "c", "a", "b", "long", "long"):  # 12 bytes a letter
        cache.get(text, lambda text=text: read(text))
    assert encoded == ["a", "b", "c", "b", "long"]
