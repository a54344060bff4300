"""Finding what is to be checked, and checking it line by line."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from mtl.errors import ConfigError, MissingExtraError, MTLError, UnknownNameError
from mtl.plugins import Plugins, load_plugins


@dataclass(frozen=True)
class Line:
    """What one check found.

    Attributes:
        target: What was checked: ``kind 'count'``.
        check: What it should do.
        failure: What it does instead and what to do about it; empty if it passed.
        unsaid: Why nothing can be said; empty if something can.
    """

    target: str
    check: str
    failure: str = ""
    unsaid: str = ""

    def __str__(self) -> str:
        word = "fail" if self.failure else "skip" if self.unsaid else "pass"
        return ". ".join(filter(None, [f"{word}  {self.target}: {self.check}", self.failure, self.unsaid]))


class Broken(Exception):  # noqa: N818  # the message is the advice
    """Raised by a check that does not hold."""


class Unsaid(Exception):  # noqa: N818  # no fault
    """Raised by a check that cannot tell; its message says why."""


class _Reached(BaseException):
    """Raised where the network is reached for; no plugin's ``except Exception`` may hide it."""


#: Checks in their order: what should be so, and a function that raises :class:`Broken` if it is not.
Checks = Sequence[tuple[str, Callable[[], None]]]


@contextmanager
def without_network() -> Iterator[None]:
    """Let every attempt to reach the network be noticed."""

    def refuse(*arguments: Any, **options: Any) -> None:
        raise _Reached

    kept = socket.socket.connect, socket.getaddrinfo
    socket.socket.connect, socket.getaddrinfo = refuse, refuse  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        socket.socket.connect, socket.getaddrinfo = kept  # type: ignore[method-assign]


def run(target: str, checks: Checks) -> Iterator[Line]:
    """Make every check. What cannot even begin after a failure of the first is not made."""
    reached = False
    for place, (name, check) in enumerate(checks):
        failure = unsaid = ""
        try:
            with without_network():
                check()
        except Broken as error:
            failure = str(error)
        except Unsaid as error:
            unsaid = str(error)
        except _Reached:
            reached = True
            continue
        except MTLError as error:
            failure = str(error)
        except Exception as error:  # a plugin may raise anything
            failure = f"It raises {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        yield Line(target, name, failure, unsaid)
        if failure and place == 0:
            return
    advice = "It was reached for. Read data from files, and let the encoder be loaded by mtl." if reached else ""
    yield Line(target, "does not touch the network", advice)


def check(target: str, plugins: Plugins | Sequence[str] = ()) -> Iterator[Line]:
    """Check a task, a kind, a strategy or another part, or everything that a plugin brings.

    Args:
        target: Its name. A plugin may also be named by its distribution.
        plugins: Those that are loaded, or references of those that are not installed.

    Yields:
        A line for each check.

    Raises:
        UnknownNameError: If nothing has that name.
    """
    from mtl.testing import parts
    from mtl.testing.kinds import checks_of_kind, checks_of_task
    from mtl.testing.strategies import checks_of_strategy

    loaded = plugins if isinstance(plugins, Plugins) else load_plugins(plugins)
    makers: dict[str, tuple[Any, Callable[[str, Plugins], Checks]]] = {
        "task": (loaded.tasks, checks_of_task),
        "kind": (loaded.kinds, checks_of_kind),
        "strategy": (loaded.strategies, checks_of_strategy),
        "sampler": (loaded.samplers, parts.checks_of_sampler),
        "weighting": (loaded.weightings, parts.checks_of_weighting),
        "aggregation": (loaded.aggregations, parts.checks_of_aggregation),
        "adaptation": (loaded.adaptations, parts.checks_of_adaptation),
    }
    found = [(what, target, partial(make, target, loaded)) for what, (names, make) in makers.items() if target in names]
    for info in loaded.infos.values():
        if target in (info.name, info.distribution.partition(" ")[0]):
            if info.failure:
                yield Line(f"plugin {info.name!r}", "can be loaded", info.failure)
                return
            brought = loaded.registered_by(info)
            found += [
                (what, name, partial(make, name, loaded)) for what, (_, make) in makers.items() for name in brought.get(what, ())
            ]
            for what, names in brought.items():
                if what not in makers:
                    yield Line(
                        f"{what} {', '.join(map(repr, names))}", "keeps its contract", unsaid=f"There are no checks of {what}s."
                    )
            if not found:
                raise ConfigError(f"Plugin {info.name!r} brings none of {', '.join(makers)}; there is nothing to check.")
    if not found:
        names = [name for registry, _ in makers.values() for name in registry]
        raise UnknownNameError(f"{', '.join(makers)} or plugin", target, [*names, *loaded.infos])
    for what, name, make in found:
        label = f"{what} {name!r}"
        try:
            checks = make()
        except MissingExtraError as error:
            yield Line(label, "is what it says", unsaid=str(error))
            continue
        except MTLError as error:
            yield Line(label, "is what it says", str(error))
            continue
        yield from run(label, checks)


def assert_keeps_contract(target: str, plugins: Plugins | Sequence[str] = ()) -> None:
    """Check as :func:`check` does, for tests.

    Raises:
        AssertionError: If a check fails; its message has a line for each that does.
    """
    failures = [str(line) for line in check(target, plugins) if line.failure]
    if failures:
        raise AssertionError("\n".join(failures))
