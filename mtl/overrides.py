"""Setting one key of an experiment's values by its path, as ``--set`` and the axes of ``compare`` do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtl.errors import ConfigError, did_you_mean


def assign(values: dict[str, Any], key: str, value: Any, where: str, fields: Mapping[str, Any]) -> None:
    """Set ``a.b.c`` in nested dicts; a name on the way becomes ``{name: …}``.

    Args:
        values: What is changed.
        key: The path.
        value: The value.
        where: Who asks for it, for messages.
        fields: The keys of the outermost level, with their defaults.

    Raises:
        ConfigError: If there is no such key, or what is above it holds no keys.
    """
    *path, last = key.split(".")
    place = values
    for part in path:
        inner = place.get(part, _default_name(fields.get(part)) if place is values else None)
        if isinstance(inner, str):
            inner = {"name": inner}
        if inner is not None and not isinstance(inner, dict):
            raise ConfigError(
                f"{where}: there is no key {last!r} in {part!r}, which is {'a list' if isinstance(inner, list) else inner}."
            )
        place[part] = {} if inner is None else inner
        place = place[part]
    if place is values and last not in fields:
        raise ConfigError(f"{where}: there is no key {last!r}. {did_you_mean(last, fields)}".strip())
    place[last] = value


def _default_name(field: Any) -> str | None:
    """Return the name that a key stands for where the file does not have it: ``joint`` for ``strategy``."""
    name = getattr(getattr(field, "default", None), "name", None)
    return name if isinstance(name, str) else None
