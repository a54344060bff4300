"""Seeds for everything random, each for its own purpose."""

from __future__ import annotations

import hashlib


def seed_of(*parts: object) -> int:
    """Return a 63-bit seed that depends on every part, the same in every process."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1
