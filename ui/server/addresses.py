"""Where a visitor comes from: what the connection says, or a proxy that is believed, and never a visitor alone."""

from __future__ import annotations

import ipaddress

from starlette.datastructures import Headers
from starlette.types import Scope

from core.settings import Settings, is_root_path

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
FORWARDING = (
    "forwarded",
    "via",
    "x-real-ip",
    "x-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
)  # what proxies add, beside all that begins with x-forwarded-


class Addresses:
    """What `settings` say about proxies, put to use. uvicorn's own reading of their headers is switched off."""

    def __init__(self, settings: Settings) -> None:
        self._proxies = settings.proxies
        self._root_path = settings.root_path
        self._mode = settings.mode
        self._speaks_for_others = settings.mode == "share" or bool(settings.hosts)

    def of(self, scope: Scope) -> str:
        """The visitor's address, of IPv6 the part that one household has; empty where nothing tells people apart.

        Read from the connection backwards: only what a proxy adds is believed, and earlier entries may be made up.
        """
        noted = ",".join(Headers(scope=scope).getlist("x-forwarded-for"))
        for depth, hop in enumerate([_peer(scope), *reversed(noted.split(","))]):
            address = _read(hop)
            if address is None:
                break
            if not self._is_proxy(address, depth):
                return _household(address) if self._tells(address, depth) else ""
        return ""

    def is_https(self, scope: Scope) -> bool:
        """Whether a proxy of the host's own says that the visitor speaks TLS with it."""
        return self._said(scope, "x-forwarded-proto").lower() == "https"

    def prefix(self, scope: Scope) -> str:
        """The path below which the visitor found us: the host's word, or a proxy's of the host's own; empty for none,
        and for what cannot be one.
        """
        said = self._said(scope, "x-forwarded-prefix").rstrip("/")
        return self._root_path or (said if is_root_path(said) else "")

    def _said(self, scope: Scope, header: str) -> str:
        """What a proxy of the host's own says in `header`; empty for nothing."""
        peer = _read(_peer(scope))
        is_believed = peer is not None and self._is_named(peer)
        return Headers(scope=scope).get(header, "").strip() if is_believed else ""

    def _is_proxy(self, address: Address, depth: int) -> bool:
        if self._mode == "space":  # its proxies have private addresses, and so has nobody who visits
            return not address.is_global
        tunnel = self._mode == "share" and depth == 0 and address.is_loopback  # its far end adds one entry
        return tunnel or self._is_named(address)

    def _is_named(self, address: Address) -> bool:
        return any(address in network for network in self._proxies)

    def _tells(self, address: Address, depth: int) -> bool:
        """Whether `address` is one visitor's: what stands on this machine, or within the tunnel's far end, speaks
        for everybody who comes through it.
        """
        if self._mode == "share" and depth > 0:
            return address.is_global
        return not (self._speaks_for_others and address.is_loopback)


def is_forwarded(scope: Scope) -> bool:
    """Whether a proxy brings the request. nginx says nothing of itself unless told to, but long spoke HTTP/1.0 with
    servers behind it, which no browser does.
    """
    return scope["http_version"] == "1.0" or any(is_forwarding(name) for name, _ in scope["headers"])


def is_forwarding(header: bytes) -> bool:
    name = header.decode("latin-1").lower()
    return name in FORWARDING or name.startswith("x-forwarded-")


def _peer(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else ""


def _read(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text.strip())
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address  # a socket for both kinds shows IPv4 inside IPv6


def _household(address: Address) -> str:
    if address.version == 4 or not address.is_global:  # in a home's own network each machine is one visitor
        return str(address)
    return str(ipaddress.ip_network((int(address), 64), strict=False))
