"""Whose a visit is: the owner's cookie, which only this server can sign, and how often it gives a new one.

A cookie is `token.time.signature`. The owner's key is a hash of the token: what stands in the database opens no door.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import re
import secrets
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from core.settings import Settings
from core.storage import storage
from ui.server.rates import Rate

OWNER_COOKIE = "darkroom_owner"
KEY_FILE, KEY_BYTES = "cookies.key", 32
COOKIE = re.compile(r"(?P<token>[A-Za-z0-9_-]{43})(\.(?P<born>[0-9]{1,12})\.(?P<signature>[0-9a-f]{64}))?")
NEW_SECONDS = 600.0  # for so long a visitor is new
AT_ONCE, SECONDS_EACH = 60, 10.0  # new visitors of one address: a class behind one router comes in, twice over
AT_ONCE_IN_ALL, SECONDS_IN_ALL = 45, 5.0  # and of all whom no address tells apart: a class and a half


@dataclass(frozen=True)
class Visitor:
    """Who asks. Whoever keeps no cookie of ours is not known, and owns what this one request makes, nothing else."""

    token: str
    is_known: bool = False
    is_new: bool = True
    is_signed: bool = False

    @property
    def owner(self) -> str:
        return hashlib.sha256(self.token.encode()).hexdigest()[:32]


class Owners:
    """Reads and gives owners' cookies. `owns` says whether the history has anything of an owner.

    Raises StorageError if the key in the data folder can neither be read nor made.
    """

    def __init__(
        self, settings: Settings, owns: Callable[[str], bool], clock: Callable[[], float] = time.monotonic
    ) -> None:
        # what was signed while nobody had to log in does not say that somebody once knew the password
        self._key = _key(settings.data / KEY_FILE) + (b"login" if settings.has_login else b"")
        self._owns = owns
        self._from_each = Rate(AT_ONCE, SECONDS_EACH, clock)
        self._from_nowhere = Rate(AT_ONCE_IN_ALL, SECONDS_IN_ALL, clock)

    def signed(self, cookie: str) -> Visitor | None:
        """Who has this cookie, if we signed it."""
        read = COOKIE.fullmatch(cookie)
        if not read or not read["signature"]:
            return None
        token, born = read["token"], int(read["born"])
        if not hmac.compare_digest(read["signature"], self._signature(token, born)):
            return None
        return Visitor(token, is_known=True, is_new=time.time() - born < NEW_SECONDS, is_signed=True)

    async def visitor(self, cookie: str) -> Visitor:
        """Who has this cookie; a new visitor for none, and for one that we did not sign and that owns nothing.

        One that owns something was ours before cookies were signed, or before the key was lost. Raises StorageError
        if the history cannot tell.
        """
        if signed := self.signed(cookie):
            return signed
        if read := COOKIE.fullmatch(cookie):
            old = Visitor(read["token"], is_known=True, is_new=False)
            if await asyncio.to_thread(self._owns, old.owner):
                return old
        return Visitor(secrets.token_urlsafe(32))

    def wait(self, address: str) -> float:
        """Seconds until one more visitor from `address`, empty where that is unknown, may be new; 0 when now."""
        return self._rate(address).wait(address)

    def cookie(self, visitor: Visitor, address: str) -> str:
        """A signed cookie for `visitor`, who is counted as new if they are."""
        if not visitor.is_known:
            self._rate(address).count(address)
        born = int(time.time()) if visitor.is_new else 0
        return f"{visitor.token}.{born}.{self._signature(visitor.token, born)}"

    def _rate(self, address: str) -> Rate:
        return self._from_each if address else self._from_nowhere

    def _signature(self, token: str, born: int) -> str:
        return hmac.new(self._key, f"{token}.{born}".encode(), hashlib.sha256).hexdigest()


def _key(path: Path) -> bytes:
    """The secret of this data folder, made at the first start; one that is damaged is made anew."""
    with storage():
        with suppress(FileNotFoundError):
            path.chmod(0o600)
            key = path.read_bytes()
            if len(key) == KEY_BYTES:
                return key
        return _make_key(path)


def _make_key(path: Path) -> bytes:
    """A file that is there as a whole or not at all, and never for others to read."""
    key = secrets.token_bytes(KEY_BYTES)
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    with open(handle, "wb") as file:
        file.write(key)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    return key
