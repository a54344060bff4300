"""``${NAME}`` and ``${NAME:-default}`` in the values of an experiment file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mtl.errors import ConfigError

_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


def expand(value: Any, where: str, known: Mapping[str, str], defined: Mapping[str, str]) -> Any:
    """Replace the variables in every text.

    First the environment's, with defaults; those that are defined in the file when a cell is made, with none known.

    Raises:
        ConfigError: Naming ``where``, if a variable has no value.
    """
    if isinstance(value, dict):
        return {key: expand(item, where, known, defined) for key, item in value.items()}
    if isinstance(value, list):
        return [expand(item, where, known, defined) for item in value]
    if not isinstance(value, str):
        return value

    def lookup(match: re.Match[str]) -> str:
        name, default = match.groups()
        if name in defined:
            return match[0] if known else str(defined[name])
        found = known.get(name, default)
        if found is None:
            raise ConfigError(
                f"{where}: the environment variable {name} is not set. Set it: {name}=… mtl run …, or give it under 'define'."
            )
        return found

    return _VARIABLE.sub(lookup, value)
