"""Progress for people; silence for programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class Quiet:
    """Shows nothing."""

    def say(self, text: str) -> None:
        """Say nothing."""

    @contextmanager
    def training(self, group: str, examples: int) -> Iterator[Quiet]:
        """Show nothing."""
        yield self

    def update(self, examples: int, losses: Mapping[str, Any]) -> None:
        """Show nothing."""


class Bars(Quiet):
    """A progress bar for each training on standard error, for a terminal."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._bar: Any = None
        self._task: Any = None

    def say(self, text: str) -> None:
        """Print a dim line."""
        self._console.print(f"[dim]{text} …[/dim]", highlight=False)

    @contextmanager
    def training(self, group: str, examples: int) -> Iterator[Quiet]:
        """Show a bar that counts examples."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._console, transient=True, refresh_per_second=4) as self._bar:
            self._task = self._bar.add_task(f"training {group}", total=examples)
            yield self

    def update(self, examples: int, losses: Mapping[str, Any]) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=examples)
