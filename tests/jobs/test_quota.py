"""Disk is a visitor's only up to a limit: what makes room for new pictures, and what does not."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from core.errors import StorageError
from core.jobs.quota import disk_warning
from core.jobs.records import Status
from core.settings import HOST_OWNER
from tests.darkroom import Darkroom


def measured(darkroom: Darkroom) -> int:
    """Bytes of the files, as the file system tells."""
    return sum((darkroom.folder / name).stat().st_size for name in darkroom.files())


def prompts(darkroom: Darkroom, owner: str) -> list[str]:
    """Newest first."""
    return [row.request.prompt for row in darkroom.history.search(owner)]


def noise(seed: int) -> Image.Image:
    """A picture that no compression makes small."""
    return Image.effect_noise((64, 64), 100 + seed)


@pytest.fixture
def size(tmp_path: Path) -> int:
    """Bytes of one picture with its thumbnail, a little more than any of these has."""
    darkroom = Darkroom(tmp_path / "one")
    darkroom.make("p" * 20)
    use = darkroom.history.disk_use("ann")
    darkroom.stop()
    return use + 16


def test_use_is_what_lies_on_disk_and_shared_inputs_count_once(tmp_path: Path) -> None:
    darkroom, source = Darkroom(tmp_path), noise(1)
    for owner in ("ann", "ann", "bob"):
        darkroom.make(owner=owner, image=source, strength=1.0)
    assert darkroom.history.disk_use() == measured(darkroom)
    shared = darkroom.history.disk_use("ann") + darkroom.history.disk_use("bob") - darkroom.history.disk_use()
    assert shared == sum(path.stat().st_size for path in (tmp_path / "inputs").iterdir())
    darkroom.history.delete([row.id for row in darkroom.history.search("ann")], "ann")
    assert darkroom.history.disk_use("ann") == 0
    assert darkroom.history.disk_use() == darkroom.history.disk_use("bob") == measured(darkroom)
    darkroom.stop()


def test_the_oldest_of_an_owner_make_room_and_favourites_stay(tmp_path: Path, size: int) -> None:
    darkroom = Darkroom(tmp_path, disk_per_owner=3 * size)
    darkroom.make("of bob", owner="bob")
    for k in range(6):
        darkroom.make(f"{k}")
        if k == 0:
            (first,) = darkroom.history.search("ann")
            darkroom.history.favourite(first.id, "ann", True)
    assert prompts(darkroom, "ann") == ["5", "4", "3", "0"]  # the job itself comes on top of what is left for it
    assert prompts(darkroom, "bob") == ["of bob"]
    assert darkroom.history.disk_use() == measured(darkroom)
    darkroom.stop()


def test_the_hosts_own_pictures_make_room_for_no_visitor(tmp_path: Path, size: int) -> None:
    darkroom = Darkroom(tmp_path, disk_in_all=2 * size)
    for owner in (*[HOST_OWNER] * 4, "ann", "bob", "eve"):
        darkroom.make(owner, owner=owner, image=noise(3))
    darkroom.history.delete([darkroom.history.search(HOST_OWNER)[0].id], HOST_OWNER)
    darkroom.make("one more", owner="eve")
    assert [len(prompts(darkroom, owner)) for owner in (HOST_OWNER, "ann", "bob")] == [3, 0, 0]
    darkroom.stop()


def test_the_oldest_of_all_make_room_for_whoever_comes(tmp_path: Path, size: int) -> None:
    darkroom = Darkroom(tmp_path, disk_in_all=2 * size)
    for owner in ("ann", "bob", "eve", "eve"):
        darkroom.make(owner, owner=owner)
    assert [prompts(darkroom, owner) for owner in ("ann", "bob", "eve")] == [[], ["bob"], ["eve", "eve"]]
    darkroom.stop()


def test_when_favourites_fill_it_a_new_job_is_refused_until_one_goes(tmp_path: Path, size: int) -> None:
    darkroom = Darkroom(tmp_path, disk_per_owner=size)
    for _ in range(2):
        (id,) = darkroom.make().pictures.values()
        darkroom.history.favourite(id, "ann", True)
    with pytest.raises(StorageError, match=r"^Your favourites fill the .* MB that this server keeps for you"):
        darkroom.submit()
    darkroom.make(owner="bob")
    darkroom.history.favourite(id, "ann", False)
    assert darkroom.make("again").status is Status.DONE
    assert id not in [row.id for row in darkroom.history.search("ann")]
    darkroom.stop()


def test_a_disk_that_others_fill_takes_no_new_job(tmp_path: Path) -> None:
    darkroom = Darkroom(tmp_path, share_of_disk=0.0)
    with pytest.raises(StorageError, match="disk is nearly full"):
        darkroom.submit()
    assert darkroom.history.recent("ann") == []
    darkroom.stop()
    darkroom = Darkroom(tmp_path, share_of_disk=0.0, disk_in_all=2**20)  # of which there is more: it is the host's
    assert darkroom.make().status is Status.DONE
    darkroom.stop()


def test_who_sits_at_the_machine_is_warned_of_a_disk_that_fills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.jobs.quota.SCARCE", shutil.disk_usage(tmp_path).total)
    assert re.fullmatch(r"only [\d.]+ [GT]B left on the disk", disk_warning(tmp_path) or "")
    monkeypatch.setattr("core.jobs.quota.SCARCE", 0)
    assert disk_warning(tmp_path) is None


def test_what_failed_jobs_began_from_goes_before_any_picture(tmp_path: Path, size: int) -> None:
    darkroom = Darkroom(tmp_path, disk_per_owner=2 * size)
    darkroom.make("kept")
    darkroom.engine.failures["fails"] = ValueError("on purpose")
    for k in range(2):
        assert darkroom.make("fails", image=noise(k), strength=1.0).status is Status.FAILED
    assert darkroom.history.disk_use("ann") > 2 * size
    darkroom.make("new")
    assert prompts(darkroom, "ann") == ["new", "kept"]
    assert darkroom.history.disk_use() == measured(darkroom)
    assert [row.request.prompt for row in darkroom.history.recent("ann")] == ["new", "kept"]
    darkroom.stop()
