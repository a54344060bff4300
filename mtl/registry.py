"""Name → thing. Refuses duplicates, suggests near names, knows which plugin brought it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from mtl.errors import DuplicateNameError, MTLError, PluginError, UnknownNameError


class Registry:
    """The things of one sort (kinds, strategies, …) that the plugins of one run have registered.

    A thing is given as itself or as ``"module:attribute"``, which is imported when the name is first
    asked for: listing names imports nothing.
    """

    def __init__(self, what: str, check: Callable[[str, Any], str | None] | None = None) -> None:
        self.what = what
        self._check = check
        self._things: dict[str, Any] = {}
        self._origins: dict[str, str] = {}
        self.hint = ""

    def register(self, name: str, thing: Any, *, origin: str) -> None:
        """Add ``thing`` under ``name``.

        Raises:
            PluginError: If the name is not a non-empty string.
            DuplicateNameError: If the name is taken; both plugins are named.
        """
        if not isinstance(name, str) or not name:
            raise PluginError(f"Plugin {origin} registered a {self.what} under {name!r}; a name is a non-empty string.")
        if name in self._things:
            raise DuplicateNameError(self.what, name, self._origins[name], origin)
        self._things[name] = thing
        self._origins[name] = origin

    def get(self, name: str) -> Any:
        """Return the thing called ``name``, importing it if it was registered by reference.

        Raises:
            UnknownNameError: If nothing has that name; the nearest name is suggested.
            PluginError: If the reference cannot be imported, or the thing does not keep its contract.
        """
        if name not in self._things:
            raise UnknownNameError(self.what, name, self._things, hint=self.hint)
        thing = self._things[name]
        if isinstance(thing, str) and ":" in thing and self._check is not None:
            thing = _import(thing, f"{self.what} {name!r} of plugin {self._origins[name]}")
            self._things[name] = thing
        if self._check is not None and (fault := self._check(name, thing)):
            raise PluginError(f"Plugin {self._origins[name]} registered the {self.what} {name!r}, but {fault}.")
        return thing

    def origin(self, name: str) -> str:
        """Return the name of the plugin that registered ``name``."""
        return self._origins[name]

    def drop_origin(self, origin: str) -> None:
        """Forget everything one plugin has registered."""
        for name in [name for name, by in self._origins.items() if by == origin]:
            del self._things[name], self._origins[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._things))

    def __contains__(self, name: object) -> bool:
        return name in self._things


def _import(reference: str, what: str) -> Any:
    module, _, attribute = reference.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except MTLError:
        raise
    except Exception as error:  # a plugin's module may raise anything
        raise PluginError(f"The {what} could not be imported from {reference!r}: {type(error).__name__}: {error}") from error


def must_subclass(base: Callable[[], type]) -> Callable[[str, Any], str | None]:
    """Return a check that a registered thing is a concrete subclass of ``base()``.

    The base class comes from a function so that it, and torch with it, is imported only when needed.
    """

    def check(name: str, thing: Any) -> str | None:
        wanted = base()
        if not (isinstance(thing, type) and issubclass(thing, wanted)):
            found = thing.__qualname__ if isinstance(thing, type) else repr(thing)
            return f"{found} is not a subclass of {wanted.__module__}.{wanted.__qualname__}"
        attributes = {name for name in wanted.__annotations__ if not hasattr(thing, name)}
        if missing := sorted({*getattr(thing, "__abstractmethods__", ()), *attributes}):
            return f"{thing.__qualname__} does not define {', '.join(missing)}"
        return None

    return check
