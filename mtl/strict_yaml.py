"""YAML as `yaml.safe_load` reads it, but a key that is written twice is an error, and every error is told in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from mtl.errors import ConfigError
from mtl.files import why_no_file


def read_file(path: Path) -> Any:
    """Read a file.

    Raises:
        ConfigError: If it is missing, cannot be read, or is not YAML.
    """
    if not path.is_file():
        raise ConfigError(why_no_file(path))
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start + 1}. Convert it to UTF-8.") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        return _load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {_fault(error)}") from error


def read_value(text: str, where: str) -> Any:
    """Read a value that was given by hand.

    Raises:
        ConfigError: Naming ``where`` it was given, if it is not YAML.
    """
    try:
        return _load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: the value is not valid YAML.") from error


def _load(text: str) -> Any:
    return yaml.load(text, _Loader)  # noqa: S506  # a SafeLoader


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen and not key.tag.endswith(":merge"):
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} is there twice", problem_mark=key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def _fault(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return f"{place}{getattr(error, 'problem', None) or ' '.join(str(error).split())}."
