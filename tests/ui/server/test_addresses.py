from __future__ import annotations

from typing import Any

import pytest

from core.settings import Settings
from ui.server.addresses import Addresses, is_forwarded

NAMED = Settings(hosts="a.b", trusted_proxy="127.0.0.1, 10.1.0.0/16, ::1")
LAN, HOSTED, SHARED = Settings(host="0.0.0.0"), Settings(hosts="a.b"), Settings(share=True)


def scope(peer: str | None, *noted: str, **changes: Any) -> dict[str, Any]:
    headers = [(b"x-forwarded-for", entry.encode()) for entry in noted]
    return {"client": peer and (peer, 5000), "headers": headers, "http_version": "1.1", "type": "http"} | changes


@pytest.mark.parametrize(
    ("settings", "peer", "noted", "address"),
    [
        (LAN, "192.168.1.7", [], "192.168.1.7"),
        (LAN, "192.168.1.7", ["93.184.216.34"], "192.168.1.7"),  # whoever writes that is no proxy
        (LAN, "127.0.0.1", ["93.184.216.34"], "127.0.0.1"),
        (LAN, "::ffff:192.168.1.7", [], "192.168.1.7"),
        (LAN, "2606:2800:220:1:248:1893:25c8:1946", [], "2606:2800:220:1::/64"),
        (LAN, "fe80::7", [], "fe80::7"),  # in one's own network everybody has the same half
        (LAN, "testclient", ["93.184.216.34"], ""),
        (LAN, None, [], ""),
        (HOSTED, "127.0.0.1", [], ""),  # a proxy, and so it may be anybody
        (HOSTED, "127.0.0.1", ["93.184.216.34"], ""),
        (HOSTED, "172.18.0.2", ["93.184.216.34"], "172.18.0.2"),
        (NAMED, "127.0.0.1", ["93.184.216.34"], "93.184.216.34"),
        (NAMED, "::ffff:127.0.0.1", ["93.184.216.34"], "93.184.216.34"),
        (NAMED, "127.0.0.1", ["6.6.6.6, 93.184.216.34, 10.1.2.3"], "93.184.216.34"),
        (NAMED, "127.0.0.1", ["6.6.6.6", "93.184.216.34"], "93.184.216.34"),  # two headers are one list
        (NAMED, "127.0.0.1", ["6.6.6.6, unknown"], ""),
        (NAMED, "127.0.0.1", ["10.1.0.1"], ""),
        (NAMED, "127.0.0.1", [], ""),
        (NAMED, "192.168.1.7", ["93.184.216.34"], "192.168.1.7"),
        (SHARED, "127.0.0.1", [], ""),
        (SHARED, "127.0.0.1", ["6.6.6.6, 93.184.216.34"], "93.184.216.34"),  # what the tunnel's far end saw
        (SHARED, "127.0.0.1", ["6.6.6.6, 10.0.0.3"], ""),  # its own balancer
        (SHARED, "127.0.0.1", ["6.6.6.6, 127.0.0.1"], ""),
    ],
)
def test_where_a_visitor_comes_from(settings: Settings, peer: str | None, noted: list[str], address: str) -> None:
    assert Addresses(settings).of(scope(peer, *noted)) == address


@pytest.mark.parametrize(
    ("settings", "peer", "said", "prefix"),
    [
        (NAMED, "127.0.0.1", "/sd", "/sd"),
        (NAMED, "127.0.0.1", "/sd/", "/sd"),
        (NAMED, "192.168.1.7", "/sd", ""),
        (HOSTED, "127.0.0.1", "/sd", ""),  # a proxy, but none that the host has named
        (NAMED, "127.0.0.1", "", ""),
        (NAMED, "127.0.0.1", "/sd;Domain=example.org", ""),
        (NAMED, "127.0.0.1", "//evil.example", ""),
        (NAMED, "127.0.0.1", "/pictures", ""),
        (NAMED.model_copy(update={"root_path": "/own"}), "127.0.0.1", "/sd", "/own"),
        (LAN.model_copy(update={"root_path": "/own"}), "192.168.1.7", "", "/own"),
    ],
)
def test_below_which_path_a_visitor_found_us(settings: Settings, peer: str, said: str, prefix: str) -> None:
    asked = scope(peer, headers=[(b"x-forwarded-prefix", said.encode())])
    assert Addresses(settings).prefix(asked) == prefix


def test_an_old_proxy_that_says_nothing_is_seen_by_its_protocol() -> None:
    assert is_forwarded(scope("127.0.0.1", http_version="1.0"))
    assert not is_forwarded(scope("127.0.0.1"))
