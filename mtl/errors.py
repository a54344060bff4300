"""Every error a user can cause: what was wrong, what was found, what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


class MTLError(Exception):
    """Base of all errors raised on purpose. The command line prints its message and exits with 2."""


class ConfigError(MTLError, ValueError):
    """An experiment, a task or an option is not valid."""


class DataError(MTLError, ValueError):
    """Rows cannot be read or cannot serve their task."""


class EncoderError(MTLError, OSError):
    """A pretrained encoder is missing, unreachable or not the file it should be."""


class PluginError(MTLError, RuntimeError):
    """A plugin failed to import, raised in a hook, or does not keep its contract."""


class BundleError(MTLError, ValueError):
    """A folder is not a model bundle, or its parts do not fit together."""


class CheckpointError(MTLError, OSError):
    """A checkpoint or another file of a run could not be written or read."""


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
        fields: Key names to suggest from when a key is unknown.
    """
    items = error.errors(include_url=False)
    lines = []
    for item in items:
        if item["type"] == "too_short" and any(item["loc"] == other["loc"][:-1] for other in items):
            continue  # its items are the fault
        key = ".".join(str(part) for part in item["loc"] if not _is_branch(part))
        if item["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            message = " ".join(filter(None, ["unknown key.", did_you_mean(str(item["loc"][-1]), fields)]))
        else:
            message = item["msg"].removeprefix("Value error, ")
            if item["type"] != "missing" and isinstance(item["input"], str | int | float | bool | None):
                message += f" (found {item['input']!r})"
        lines.append(f"{key or 'value'}: {message}")
    return ConfigError(f"{where}: " + "; ".join(dict.fromkeys(lines)))


def _is_branch(part: int | str) -> bool:
    """Tell pydantic's names for branches of a union from keys of the file."""
    return isinstance(part, str) and (not part or part[0].isupper() or "[" in part or part in ("str", "int", "float", "bool"))
