"""Every error a user can cause: what was wrong, what was found, what to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any


class MTLError(Exception):
    """Base of all errors raised on purpose. The command line prints its message and exits with 2."""


class ConfigError(MTLError, ValueError):
    """An experiment, a task or an option is not valid."""


class DataError(MTLError, ValueError):
    """Rows cannot be read or cannot serve their task."""


class RowError(DataError):
    """One row cannot serve its task.

    Attributes:
        index: The row's place among those that were looked at.
    """

    def __init__(self, index: int, message: str) -> None:
        self.index = index
        super().__init__(message)


class EncoderError(MTLError, OSError):
    """A pretrained encoder is missing, unreachable or not the file it should be."""


class PluginError(MTLError, RuntimeError):
    """A plugin failed to import, raised in a hook, or does not keep its contract."""


class BundleError(MTLError, ValueError):
    """A folder is not a model bundle, or its parts do not fit together."""


class CheckpointError(MTLError, OSError):
    """A checkpoint or another file of a run could not be written or read."""


class GridError(MTLError, RuntimeError):
    """The cells of a grid cannot be run, or cannot be compared."""


class TrainingError(MTLError, ArithmeticError):
    """Training cannot go on, for example because a loss is not finite."""


class MissingExtraError(MTLError, ImportError):
    """An optional library is needed and is not installed."""

    def __init__(self, library: str, *, extra: str) -> None:
        super().__init__(f"{library!r} is needed here and is not installed. Install it with: pip install 'mtl[{extra}]'")


class UnknownNameError(MTLError, LookupError):
    """No plugin has registered the name that was asked for."""

    def __init__(self, what: str, name: str, known: Iterable[str], *, hint: str = "") -> None:
        known = sorted(known)
        registered = f"Registered: {', '.join(known) or 'none'}."
        super().__init__(" ".join(filter(None, [f"Unknown {what} {name!r}.", did_you_mean(name, known), registered, hint])))


class DuplicateNameError(MTLError, ValueError):
    """Two plugins have registered the same name."""

    def __init__(self, what: str, name: str, first: str, second: str) -> None:
        super().__init__(
            f"The {what} {name!r} is registered twice, by {first} and by {second}. "
            "Rename one of the two, or leave one plugin out."
        )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"Did you mean 'x'?"`` for the nearest known name, or an empty string."""
    guess = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"Did you mean {guess[0]!r}?" if guess else ""


def explain_validation(error: Any, where: str, fields: Iterable[str] = ()) -> ConfigError:
    """Turn a pydantic ``ValidationError`` into one message that names every offending key.

    Args:
        error: The ``pydantic.ValidationError``.
        where: The file or object the values came from.
        fields: The keys there are, those of an inner level with a dot: ``batch.size``.
    """
    items = error.errors(include_url=False)
    locs = [item["loc"] for item in items]
    faults: dict[str, list[Mapping[str, Any]]] = {}
    for item in items:
        inside = len(item["loc"])
        if not any(len(loc) > inside and loc[:inside] == item["loc"] for loc in locs):  # else what is inside is the fault
            faults.setdefault(".".join(_path(item)), []).append(item)
    lines = []
    for key, found in faults.items():
        if found[0]["type"] in _UNKNOWN:
            text = f"unknown key. {_nearest_key(_path(found[0]), list(fields))}"
        else:  # of the branches of a union those whose type fits say what is wrong
            fitting = [item for item in found if not item["type"].endswith("_type")] or found
            first, *others = dict.fromkeys(_fault(item) for item in fitting)
            text = " or ".join([first, *(other.removeprefix("must be ") for other in others)]) + _found(found[0])
        lines.append(f"{key}: {text}" if key else text)
    message = f"{where}: {'; '.join(lines)}"
    return ConfigError(message if message.endswith((".", "?")) else f"{message}.")


_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument", "invalid_key")
#: pydantic's errors in plain words, by the end of their type; braces are filled from the error's context.
_PLAIN = {
    "missing": "is missing",
    "finite_number": "must be a finite number",
    "greater_than": "must be greater than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "literal_error": "must be {expected}",
    "string_too_short": "must not be empty",
    "too_short": "must have at least {min_length} entry",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "must be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    **dict.fromkeys(("tuple_type", "list_type"), "must be a list"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type", "dataclass_type"), "must be a mapping of keys"),
    "string_type": "must be a text",
}


def _fault(item: Mapping[str, Any]) -> str:
    if item["type"] in _PLAIN:
        return _PLAIN[item["type"]].format(**item.get("ctx", {}))
    return str(item["msg"]).removeprefix("Value error, ").replace("Input should be", "must be").rstrip(".")


def _found(item: Mapping[str, Any]) -> str:
    value = item["input"]
    if item["type"] == "missing":
        return ""
    if isinstance(value, str | int | float | bool | None):
        return f" (found {'nothing' if value is None else format(repr(value), '.60')})"
    if item["type"] == "value_error" or not isinstance(value, list | tuple | dict) or not value:
        return ""
    return f" (found {'a mapping' if isinstance(value, dict) else 'a list'})"


def _path(item: Mapping[str, Any]) -> list[str]:
    """Return an error's place as keys of the file, without pydantic's names for branches of a union."""
    *outer, last = item["loc"] or ("",)
    path = [str(part) for part in outer if not _is_branch(part)]
    return path if item["type"] not in _UNKNOWN and _is_branch(last) else [*path, str(last)]


def _nearest_key(path: Sequence[str], fields: Sequence[str]) -> str:
    """Suggest a key of the same level, else the same key of another level, else list the level's keys."""
    *outer, last = path
    level = [field.rpartition(".")[2] for field in fields if field.rpartition(".")[0] == ".".join(outer)]
    elsewhere = [field for field in fields if field.rpartition(".")[2] == last]
    if hint := did_you_mean(last, level):
        return hint
    if elsewhere:
        return f"Did you mean {elsewhere[0]!r}?"
    return f"There are: {', '.join(level)}." if level else "There are none."


def _is_branch(part: int | str) -> bool:
    if not isinstance(part, str):
        return False
    return not part or part[0].isupper() or "[" in part or part.startswith("constrained-") or part in _BRANCHES


_BRANCHES = ("str", "int", "float", "bool")
