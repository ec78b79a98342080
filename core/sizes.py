"""Bytes, and how people read them."""

from __future__ import annotations

MB, GB = 2**20, 2**30


def in_words(size: float) -> str:
    """Bytes as "420 MB", "7.1 GB" or "24 GB"."""
    if size < MB:
        return "under 1 MB"
    if size < GB:
        return f"{size / MB:.0f} MB"
    return f"{size / GB:.1f}".removesuffix(".0") + " GB" if size < 10 * GB else f"{size / GB:.0f} GB"
