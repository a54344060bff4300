"""The command line. Everything slow is imported inside a command, so that help answers at once."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

import mtl
from mtl.errors import MTLError
from mtl.kit import JsonOption, PluginOption, check, data, new, print_json, show_tables

app = typer.Typer(
    help="Train many NLP tasks on one shared Transformer encoder, and see whether it was worth it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

SetOption = Annotated[list[str] | None, typer.Option("--set", "-s", help="Override a key: --set budget.epochs=1. Repeatable.")]
OutputOption = Annotated[Path | None, typer.Option("--output", "-o", help="Folder for runs.")]
#: What typer raises for a wrong command line. Newer versions bring their own click, so its name is not the same in all.
_UsageError: Any = typer.BadParameter.__bases__[0]
_INTERRUPTED = 130
#: How the value of an option is written, where it is not ``key=value``.
_FORMS = {"--column": "role=column", "--over": "axis=value,value"}


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mtl {mtl.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens to standard error.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    no_plugins: Annotated[
        list[str] | None, typer.Option("--no-plugins", help="A plugin to leave out, by its name. Repeatable.")
    ] = None,
) -> None:
    if no_plugins:
        os.environ["MTL_NO_PLUGINS"] = ",".join(no_plugins)
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)


@app.command()
def demo(set_: SetOption = None, output: OutputOption = None, as_json: JsonOption = False) -> None:
    """Run the bundled example: four tasks alone and together, and transfer to two domains never seen."""
    _run("demo", set_ or [], [], output, as_json)


@app.command()
def run(
    file: Annotated[str, typer.Argument(help="An experiment file, or the name of one that a plugin brings.")],
    set_: SetOption = None,
    plugin: PluginOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run an experiment, or go on with one that was stopped."""
    _run(file, set_ or [], plugin or [], output, as_json)


def _run(
    file: str, overrides: list[str], plugins: list[str], output: Path | None, as_json: bool, bundles: list[Path] | None = None
) -> None:
    from mtl.experiment import load_experiment
    from mtl.lines import asking
    from mtl.model.bundle import read_kinds
    from mtl.report.display import Bars, Quiet

    where = [] if output is None else [f"output={json.dumps(str(output))}"]
    experiment = load_experiment(file, [*overrides, *where], plugins)
    loaded = experiment.load_plugins()
    _warn_of_failures(loaded)
    display = Bars() if sys.stderr.isatty() else Quiet()
    finished = experiment.run(display) if bundles is None else experiment.transfer(bundles, display)
    if as_json:
        print_json({"folder": str(finished.folder), "runs": finished.runs})
        return
    _show(finished.folder)
    typer.echo(f"Everything is in {finished.folder}. Look again with: mtl report {finished.folder}")
    answering = [run for run in finished.runs if run["results"]["tasks"]]  # others have no heads
    bundle = next(iter(sorted(Path(answering[-1]["folder"]).glob("models/*/bundle.json"))), None) if answering else None
    if bundle is not None:
        typer.echo(f"Try the model: {asking(next(iter(read_kinds(bundle.parent, loaded).values())), bundle.parent, plugins)}")


@app.command()
def predict(
    bundle: Annotated[Path, typer.Argument(help="A model bundle, or a run with one.")],
    task: Annotated[list[str] | None, typer.Option("--task", "-t", help="Ask only this head. Repeatable.")] = None,
    input_: Annotated[str, typer.Option("--input", "-i", help="A file of texts or JSON objects, one a line; - for stdin.")] = "-",
    plugin: PluginOption = None,
) -> None:
    """Answer texts with every head from one encoder pass; one JSON object a line comes out."""
    from mtl.lines import chunks, name_of, read_rows
    from mtl.model.bundle import load_bundle
    from mtl.plugins import load_plugins

    plugins = load_plugins(plugin or [])
    loaded = load_bundle(bundle, plugins=plugins)
    first = 1
    for rows in chunks(read_rows(input_)):
        for row, answers in zip(rows, loaded.predict(rows, task, source=name_of(input_), first_row=first), strict=True):
            typer.echo(json.dumps({"input": row, "predictions": answers}, ensure_ascii=False))
        first += len(rows)


@app.command()
def export(
    bundle: Annotated[Path, typer.Argument(help="A model bundle, or a run with one.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the new bundle.")],
    task: Annotated[str | None, typer.Option("--task", "-t", help="Keep this head alone.")] = None,
    keep_adapters: Annotated[bool, typer.Option("--keep-adapters", help="Do not fold adapters into the weights.")] = False,
    plugin: PluginOption = None,
) -> None:
    """Write a bundle that needs nothing beside it, its adapters folded into the encoder's weights."""
    from mtl.model.bundle import load_bundle
    from mtl.model.export import check_folder
    from mtl.model.export import export as write
    from mtl.plugins import load_plugins

    check_folder(output, bundle)
    written = write(load_bundle(bundle, plugins=load_plugins(plugin or [])), output, task, merge=not keep_adapters)
    typer.echo(f"{output} answers {', '.join(written.tasks) or 'nothing yet: it has no heads'}.")


@app.command()
def adapt(
    bundle: Annotated[Path, typer.Argument(help="A model bundle, or a run with one.")],
    support: Annotated[Path, typer.Option("--support", help="A file of rows of the new task: csv, tsv, json, jsonl, parquet.")],
    name: Annotated[str, typer.Option("--name", help="What the new task is called.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the new bundle.")],
    kind: Annotated[str, typer.Option("--kind", help="Its kind.")] = "classification",
    column: Annotated[
        list[str] | None, typer.Option("--column", help="role=column, for example text=message. Repeatable.")
    ] = None,
    adaptation: Annotated[
        str | None, typer.Option("--adaptation", help="prototype, ridge, full, … Default: as the bundle was trained.")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", "-s", help="An option of the adaptation: penalty=0.1.")] = None,
    plugin: PluginOption = None,
) -> None:
    """Learn a new task from a few rows, and write a bundle with a head for it."""
    from mtl.config import Choice
    from mtl.errors import ConfigError
    from mtl.lines import asking
    from mtl.model.bundle import load_bundle
    from mtl.model.export import check_folder
    from mtl.plugins import load_plugins
    from mtl.strict_yaml import read_value
    from mtl.task import Task
    from mtl.transfer.adapt import adapt as learn

    check_folder(output, bundle)
    plugins = load_plugins(plugin or [])
    options = {key: read_value(text, f"--set {key}={text}") for key, text in _pairs(set_ or [], "--set")}
    if options and adaptation is None:
        raise ConfigError("--set gives options to an adaptation: name it with --adaptation.")
    choice = None if adaptation is None else Choice(name=adaptation, **options)
    task = Task(name=name, kind=kind, data=[], columns=dict(_pairs(column or [], "--column")))
    adapted = learn(load_bundle(bundle, plugins=plugins), task, support, choice, plugins)
    adapted.save(output)
    typer.echo(
        f"{output} answers {', '.join(adapted.tasks)}. Try it: {asking(adapted.model.kinds[name], output, plugin)} --task {name}"
    )


def _pairs(entries: list[str], option: str) -> Iterator[tuple[str, str]]:
    from mtl.errors import ConfigError

    for entry in entries:
        key, separator, value = entry.partition("=")
        if not separator or not key:
            raise ConfigError(f"{option} {entry!r}: write {_FORMS.get(option, 'key=value')}.")
        yield key, value


@app.command()
def transfer(
    file: Annotated[str, typer.Argument(help="An experiment file with targets, or the name of one that a plugin brings.")],
    bundle: Annotated[list[Path], typer.Option("--bundle", "-b", help="A trained bundle, or a run with one. Repeatable.")],
    set_: SetOption = None,
    plugin: PluginOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure few-shot transfer of trained bundles, beside the untouched encoder and joint training (targets.baselines)."""
    _run(file, set_ or [], plugin or [], output, as_json, bundle)


@app.command()
def compare(
    file: Annotated[str, typer.Argument(help="An experiment file, or the name of one that a plugin brings.")],
    over: Annotated[
        list[str] | None, typer.Option("--over", help="An axis: --over strategy=single,joint,maml. Repeatable.")
    ] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="So many seeds, from the experiment's own upwards.")] = None,
    backend: Annotated[str, typer.Option("--backend", help="Where cells are run: loky, dask, ray, …")] = "loky",
    address: Annotated[str | None, typer.Option("--address", help="Of a cluster that is running.")] = None,
    jobs: Annotated[int | None, typer.Option("--jobs", "-j", min=1, help="Cells at a time. Default: as many as fit.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the cells and how long they will take.")] = False,
    set_: SetOption = None,
    plugin: PluginOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a grid of strategies, seeds or any keys, and say whether it was worth it."""
    from mtl.config import Choice
    from mtl.experiment import load_experiment
    from mtl.grid.watch import Lines, LiveTable

    where = [f"output={json.dumps(str(output))}"] if output is not None else []
    experiment = load_experiment(file, [*(set_ or []), *where], plugin or [])
    axes = {axis: _values(axis, text) for axis, text in _pairs(over or [], "--over")}
    if seeds is not None:
        axes["seed"] = list(range(experiment.config.seed, experiment.config.seed + seeds))
    experiment = experiment.over(axes)
    if dry_run:
        _show_plan(experiment, jobs, as_json)
        return
    logging.getLogger("mtl.grid").setLevel(logging.INFO)
    watch = LiveTable() if sys.stderr.isatty() else Lines()
    options = {} if address is None else {"address": address}
    finished = experiment.compare(Choice(name=backend, **options), jobs, watch)
    failed = [run for run in finished.runs if run["error"]]
    if as_json:
        print_json({"folder": str(finished.folder), "runs": finished.runs})
    else:
        _show(finished.folder)
        for verdict in json.loads((finished.folder / "report" / "findings.json").read_text(encoding="utf-8"))["verdicts"]:
            typer.echo(verdict)
        typer.echo(f"Intervals and tests are in {finished.folder / 'report.html'}. Look again with: mtl report {finished.folder}")
    if failed:
        typer.echo(f"Error: {len(failed)} of {len(finished.runs)} cells failed. The same command tries them again.", err=True)
        raise typer.Exit(2)


def _values(axis: str, text: str) -> list[Any]:
    import yaml

    from mtl.errors import ConfigError

    try:
        return list(yaml.safe_load(f"[{text}]"))
    except yaml.YAMLError as error:
        raise ConfigError(f"--over {axis}={text}: write values with commas, as in --over strategy=single,joint.") from error


def _show_plan(experiment: Any, jobs: int | None, as_json: bool) -> None:
    """List the cells of a grid with what they will take."""
    from mtl.grid.backend import jobs_that_fit
    from mtl.grid.execute import threads_of
    from mtl.grid.plan import forecast
    from mtl.report.tables import Table

    found = forecast(experiment.cells())
    if as_json:
        print_json([{"cell": each.cell.name, "folder": str(each.cell.folder), "seconds": each.seconds} for each in found])
        return
    rows = [
        [each.cell.name, each.cell.folder.name, "?" if each.seconds is None else f"{each.seconds / 60:.1f}", each.like]
        for each in found
    ]
    at_a_time = jobs or jobs_that_fit(threads_of([each.cell for each in found]))
    distinct = {each.cell.folder: each for each in found}.values()
    known = sum(each.seconds or 0.0 for each in distinct) / 60 / at_a_time
    unknown = sum(each.seconds is None for each in distinct)
    takes = [f"about {known:.1f} minutes"] if unknown < len(distinct) else []
    takes += [f"{unknown} cells of which nothing is known yet"] if unknown else []
    total = f"{len(found)} cells in {len(distinct)} folders, {at_a_time} at a time: {', and '.join(takes)}."
    show_tables([Table("Cells", ["cell", "folder", "minutes", "known from"], rows, [total], figures=False)])


@app.command()
def tasks(plugin: PluginOption = None, as_json: JsonOption = False) -> None:
    """List the tasks and kinds of task that plugins bring."""
    from mtl.plugins import load_plugins
    from mtl.report.tables import Table

    plugins = load_plugins(plugin or [])
    _warn_of_failures(plugins)
    found = [plugins.tasks.get(name) for name in plugins.tasks]
    if as_json:
        listed = [
            {"name": task.name, "kind": task.kind, "plugin": plugins.tasks.origin(task.name), "description": task.description}
            for task in found
        ]
        print_json({"tasks": listed, "kinds": [{"name": name, "plugin": plugins.kinds.origin(name)} for name in plugins.kinds]})
        return
    show_tables(
        [
            Table(
                "Tasks",
                ["name", "kind", "description"],
                [[task.name, task.kind, task.description] for task in found],
                figures=False,
            ),
            Table(
                "Kinds of task", ["name", "plugin"], [[name, plugins.kinds.origin(name)] for name in plugins.kinds], figures=False
            ),
        ]
    )


@app.command()
def plugins(plugin: PluginOption = None, as_json: JsonOption = False) -> None:
    """List the plugins, what each has registered, and those that failed."""
    from mtl.plugins import load_plugins
    from mtl.report.tables import Table

    loaded = load_plugins(plugin or [])
    brought = {info.name: loaded.registered_by(info) for info in loaded.infos.values()}
    if as_json:
        print_json([vars(info) | {"registered": brought[info.name]} for info in loaded.infos.values()])
        return
    rows = [
        [
            info.name,
            info.distribution,
            "failed" if info.failure else "in use",
            "; ".join(f"{what}: {', '.join(names)}" for what, names in brought[info.name].items()) or info.failure,
        ]
        for info in loaded.infos.values()
    ]
    show_tables([Table("Plugins", ["name", "from", "state", "brings"], rows, figures=False)])


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="The folder of a run or of a comparison.")], as_json: JsonOption = False
) -> None:
    """Show the tables of a run or comparison, and write its report: HTML, Markdown, LaTeX, CSV and JSON."""
    from mtl.report.write import read_folder, write_all

    comparison, results = read_folder(folder)
    if as_json:
        print_json({"comparison": comparison, "results": results})
        return
    write_all(folder, comparison, results)
    _show(folder)
    typer.echo(f"The page is {folder / 'report.html'}. Tables for papers and programs are in {folder / 'report'}.")


def _show(folder: Path) -> None:
    from mtl.report.write import read_folder, tables_of

    show_tables(tables_of(folder, *read_folder(folder)))


def _warn_of_failures(plugins: Any) -> None:
    for info in plugins.failures:
        typer.echo(f"Warning: plugin {info} is left out: {info.failure}", err=True)


for _command in (data, check, new):
    app.command()(_command)


def main() -> None:
    """Run the command line; errors of users exit with 2, faults of the program with 1."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments or bool(os.environ.get("MTL_DEBUG"))
    try:
        code = app([argument for argument in arguments if argument != "--debug"], standalone_mode=False)
        if code == _INTERRUPTED:  # typer's word for KeyboardInterrupt
            raise KeyboardInterrupt
        if code:
            sys.exit(code)
    except _UsageError as error:
        error.show()
        sys.exit(error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        typer.echo("Stopped. The same command goes on from the last checkpoint.", err=True)
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except MTLError as error:
        if debug:
            raise
        typer.echo(f"Error: {error}", err=True)
        sys.exit(2)
    except Exception as error:
        if debug:
            raise
        typer.echo(
            f"Fault in mtl or a plugin: {type(error).__name__}: {error}. Run again with --debug for the traceback.", err=True
        )
        sys.exit(1)
