"""The commands for authors of plugins: a look at data, a new plugin, a check of its contract."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

PluginOption = Annotated[
    list[str] | None,
    typer.Option("--plugin", help="A plugin that is not installed: module:object or file.py:object. Repeatable."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def data(
    target: Annotated[list[str], typer.Argument(help="Tasks that plugins bring, or experiment files with tasks.")],
    plugin: PluginOption = None,
    page: Annotated[Path | None, typer.Option("--page", help="Write a page too: an .html or a Markdown file.")] = None,
) -> None:
    """Look at tasks before they are trained: sizes, lengths, labels, examples, rows that are there twice."""
    from mtl.errors import ConfigError
    from mtl.experiment import load_experiment
    from mtl.plugins import load_plugins
    from mtl.report.survey import Survey, write_survey

    if page is not None and page.suffix not in (".html", ".md"):
        raise ConfigError(f"--page {page}: name an .html or a Markdown (.md) file.")
    loaded = load_plugins(plugin or [])
    found, base = [], Path.cwd()
    for name in target:
        if Path(name).suffix in (".yaml", ".yml"):
            config = load_experiment(name, [], plugin or []).config
            base = config.base
            found += [task if not isinstance(task, str) else loaded.tasks.get(task) for task in config.tasks]
        else:
            found.append(loaded.tasks.get(name))
    parts = list(Survey(found, loaded, base).parts())
    show_tables(table for _, tables in parts for table in tables)
    if page is not None:
        write_survey(page, parts)


def new(
    what: Annotated[str, typer.Argument(help="task, kind, strategy, sampler, weighting, aggregation, adaptation or tracker.")],
    name: Annotated[str, typer.Argument(help="Its name, for example acme/queue.")],
    kind: Annotated[str, typer.Option("--kind", help="Of a task: its kind.")] = "classification",
    data: Annotated[Path | None, typer.Option("--data", help="Of a task: a file of rows.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the package's folder is made.")] = Path(),
    plugin: PluginOption = None,
) -> None:
    """Write a plugin package that passes its own tests at once."""
    from mtl.errors import ConfigError
    from mtl.plugins import load_plugins
    from mtl.scaffold.package import new_part, new_task

    if what == "task":
        if data is None:
            raise ConfigError("mtl new task: name a file of rows with --data.")
        written = new_task(name, kind, data, output, load_plugins(plugin or []))
    else:
        written = new_part(what, name, output)
    for line in written.lines:
        typer.echo(line)
    typer.echo(f"Written: {written.folder}. Next: pip install -e {written.folder} && pytest {written.folder}")


def check(
    target: Annotated[str, typer.Argument(help="A task, a kind, a strategy or other part, or a plugin with all it brings.")],
    plugin: PluginOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check that a plugin keeps the contract; one line for each check. Exits with 1 if one fails."""
    from mtl.plugins import load_plugins
    from mtl.testing import check as check_contract

    loaded = load_plugins(plugin or [])
    failed, lines = False, []
    for line in check_contract(target, loaded):
        failed = failed or bool(line.failure)
        lines.append(vars(line) | {"passed": not (line.failure or line.unsaid)})
        if not as_json:
            typer.echo(str(line))
    if as_json:
        print_json(lines)
    if failed:
        raise typer.Exit(1)


def show_tables(tables: Iterable[Any]) -> None:
    """Print tables to the terminal."""
    from rich.console import Console

    console = Console()
    for table in tables:
        table.show(console)


def print_json(value: Any) -> None:
    """Print a value for programs."""
    from mtl.files import to_json

    typer.echo(to_json(value), nl=False)
