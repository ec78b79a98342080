"""The disk that visitors may fill: the oldest pictures that are no favourites make room for new ones."""

from __future__ import annotations

import shutil
from pathlib import Path

from core.errors import StorageError
from core.jobs.history import History
from core.settings import Limits
from core.sizes import GB, in_words
from core.storage import storage

SCARCE = 2 * GB


def make_room(history: History, owner: str, limits: Limits) -> None:
    """Bring what is kept down to `limits` before `owner` adds to it.

    Raises StorageError if favourites, and what open jobs begin from, fill it alone, or if the disk itself is nearly
    full.
    """
    with storage():
        disk = shutil.disk_usage(history.folder)
    # A container may be told of its host's disk, which others fill: what is free counts too
    if disk.used > limits.share_of_disk * disk.total and disk.free < limits.disk_in_all:
        raise StorageError("This server's disk is nearly full; try again later.")
    quotas = (
        (owner, limits.disk_per_owner, "Your favourites fill the {} that this server keeps for you; delete some."),
        (
            None,
            limits.disk_in_all,
            "The pictures of all visitors fill the {} that this server keeps; try again later.",
        ),
    )
    for who, most, words in quotas:
        while (over := history.disk_use(who) - most) > 0:
            if not history.shed(who, over):
                raise StorageError(words.format(in_words(most)))


def disk_warning(folder: Path) -> str | None:
    """What to tell who sits at the machine while its disk can still be cleared."""
    free = free_space(folder)
    return f"only {in_words(free)} left on the disk" if free < SCARCE else None


def free_space(folder: Path) -> int:
    """Bytes. Raises StorageError if the folder is gone."""
    with storage():
        return shutil.disk_usage(folder).free
