"""The one importer of `learn2learn`: the MAML that ours is checked against, and a backend of its own."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from mtl.errors import ConfigError


def load_learn2learn() -> Any:
    """Import learn2learn without its parts for reinforcement learning and vision, which need packages of their own.

    Raises:
        ConfigError: If it is not installed, saying how to install it.
    """
    added = [f"learn2learn.{part}" for part in ("gym", "vision", "text") if f"learn2learn.{part}" not in sys.modules]
    sys.modules.update({name: ModuleType(name) for name in added})
    try:
        import learn2learn
    except ImportError as error:
        raise ConfigError(
            f"learn2learn is not installed ({error}). Build it with 'make learn2learn', or see docs/protocol.md; "
            "or leave out backend: learn2learn, as mtl's own engine gives the same result."
        ) from error
    finally:
        for name in added:
            sys.modules.pop(name, None)
    return learn2learn
