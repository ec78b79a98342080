"""The keys of an ESRGAN's file in its three spellings, as core/library/esrgan.py names its layers."""

from __future__ import annotations

import re
from collections.abc import Iterable

SPELLINGS = (
    (r"^RRDB_trunk\.", "body."),
    (r"^model\.1\.sub\.(\d+)\.RDB", r"body.\1.RDB"),
    (r"\.RDB(\d)\.conv(\d)(\.0)?\.", r".rdb\1.conv\2."),
    (r"^(trunk_conv|model\.1\.sub\.\d+)\.", "conv_body."),
    (r"^(conv_up|upconv)(\d)\.", lambda found: f"ups.{int(found[2]) - 1}."),
    (r"^HRconv\.", "conv_hr."),
    (r"^model\.0\.", "conv_first."),
)
"""The original code's keys, and those of its later one, as Real-ESRGAN has them."""


def esrgan_names(keys: Iterable[str]) -> dict[str, str]:
    """Keys of an ESRGAN -> those of esrgan.py. In the original code the layers at the end have only numbers."""
    keys = list(keys)
    ends = sorted({int(found[1]) for key in keys if (found := re.match(r"model\.(\d{1,3})\.", key))} - {0, 1})
    last = dict(zip(reversed(ends), ("conv_last", "conv_hr"), strict=False))
    tail = last | {number: f"ups.{k}" for k, number in enumerate(ends[:-2])}
    return {
        key: _spelled(re.sub(r"^model\.(\d+)(?=\.\w+$)", lambda m: tail.get(int(m[1]), m[0]), key)) for key in keys
    }


def _spelled(key: str) -> str:
    for pattern, name in SPELLINGS:
        key = re.sub(pattern, name, key)
    return key
