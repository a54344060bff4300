"""The command line: what it prints, where errors go and how it exits."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import ROOT, rating_rows, sentiment_rows, splits

import mtl
import mtl.cli
import mtl.plugins

SLOW = ("torch", "transformers", "datasets", "sklearn", "matplotlib", "scipy")


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def call(monkeypatch, capsys) -> Callable[..., Ended]:
    """Call the command line in this process."""

    def call(*arguments: object, stdin: str | None = None) -> Ended:
        monkeypatch.setattr(sys, "argv", ["mtl", *map(str, arguments)])
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        code: Any = 0
        try:
            mtl.cli.main()
        except SystemExit as stopped:
            code = stopped.code or 0
        return Ended(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def finished(encoder_folder, tmp_path_factory) -> Path:
    """The folder of a small finished run."""
    folder = tmp_path_factory.mktemp("cli")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MTL_CACHE", str(folder / "cache"))
        experiment = mtl.Experiment.of(
            name="small",
            encoder={"name": str(encoder_folder), "max_length": 32},
            tasks=[
                {"name": "mood", "kind": "classification", "data": splits(sentiment_rows(32))},
                {"name": "rating", "kind": "regression", "data": splits(rating_rows(32))},
            ],
            budget={"epochs": 1},
            threads=1,
            output=str(folder / "runs"),
        )
        return experiment.run().folder


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["tasks"], ["tasks", "--json"], ["plugins"], ["plugins", "--json"], ["run", "--help"]],
)
def test_light_commands_import_nothing_slow(arguments):
    code = f"""
import sys
from mtl.cli import main
sys.argv = ["mtl", *{arguments!r}]
try:
    main()
except SystemExit as stopped:
    assert not stopped.code, stopped.code
slow = set({SLOW!r}) & set(sys.modules)
assert not slow, slow
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60, stdout=subprocess.DEVNULL)


def test_the_version_is_printed(call):
    assert call("--version") == (0, f"mtl {mtl.__version__}\n", "")


def test_help_names_every_command(call):
    ended = call("--help")
    assert ended.code == 0
    assert all(name in ended.out for name in ("demo", "run", "predict", "tasks", "plugins", "report"))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["runn"], "No such command 'runn'"),
        (["run"], "Missing"),
        (["run", "x.yaml", "--sett", "a=1"], "No such option"),
        (["run", "no_such_file.yaml"], "Error: There is no file no_such_file.yaml"),
        (["run", "dmeo"], "Error: Unknown experiment 'dmeo'. Did you mean 'demo'?"),
        (["run", "demo", "--set", "sedd=1"], "there is no key 'sedd'. Did you mean 'seed'?"),
        (["run", "demo", "--plugin", "no_such_module"], "Error: Plugin 'no_such_module' cannot be loaded"),
        (["predict", "no_such_folder"], "Error: There is no folder no_such_folder"),
        (["report", "no_such_folder"], "Error: There is no folder no_such_folder"),
    ],
)
def test_what_a_user_does_wrong_exits_with_2_and_no_traceback(call, arguments, told):
    ended = call(*arguments)
    assert ended.code == 2
    assert ended.out == ""
    assert told in ended.err
    assert "Traceback" not in ended.err


def test_no_arguments_print_the_help(call):
    ended = call()
    assert "Usage" in ended.out + ended.err
    assert "Fault" not in ended.err


def test_a_fault_of_the_program_exits_with_1_and_no_traceback(call, monkeypatch):
    monkeypatch.setattr(mtl.plugins, "load_plugins", lambda extra: 1 / 0)
    ended = call("tasks")
    assert ended.code == 1
    assert (
        ended.err == "Fault in mtl or a plugin: ZeroDivisionError: division by zero. Run again with --debug for the traceback.\n"
    )
    assert ended.out == ""


@pytest.mark.parametrize("where", ["before", "after"])
def test_debug_shows_the_traceback(call, where):
    arguments = ["report", "no_such_folder"]
    with pytest.raises(mtl.MTLError, match="There is no folder"):
        call(*(["--debug", *arguments] if where == "before" else [*arguments, "--debug"]))


def test_an_interrupt_exits_with_130_and_says_how_to_go_on(call, monkeypatch):
    def interrupt(extra):
        raise KeyboardInterrupt

    monkeypatch.setattr(mtl.plugins, "load_plugins", interrupt)
    ended = call("tasks")
    assert ended.code == 130
    assert ended.err == "Stopped. The same command goes on from the last checkpoint.\n"


def test_tasks_as_json_and_as_a_table_name_the_same(call):
    listed = json.loads(call("tasks", "--json").out)
    names = [task["name"] for task in listed["tasks"]]
    assert "helpdesk/intent" in names
    assert {"name": "classification", "plugin": "'mtl_tasks' (bundled with mtl)"} in listed["kinds"]
    table = call("tasks").out
    assert all(name.split("/")[0] in table for name in names)
    assert "token-classification" in table


def test_plugins_show_those_that_failed(call, monkeypatch):
    class Broken:
        name, value, dist = "broken", "broken", None

        def load(self):
            raise ImportError("left_pad is not there")

    monkeypatch.setattr(mtl.plugins, "entry_points", lambda group: [Broken()])
    ended = call("plugins", "--json")
    assert ended.code == 0
    listed = {plugin["name"]: plugin for plugin in json.loads(ended.out)}
    assert listed["broken"]["failure"] == "ImportError: left_pad is not there"
    assert listed["broken"]["registered"] == {}
    assert "minilm" in listed["mtl_plugins"]["registered"]["encoder"]
    assert "failed" in call("plugins").out
    warned = call("tasks", "--json")
    assert json.loads(warned.out)["tasks"]
    assert warned.err == "Warning: plugin 'broken' (an unknown distribution) is left out: ImportError: left_pad is not there\n"


def test_run_takes_overrides_and_prints_json(call, experiment_values, write_experiment, tmp_path):
    file = write_experiment({**experiment_values, "tasks": experiment_values["tasks"][:1]})
    ended = call("run", file, "--set", "budget.epochs=1", "-s", "seed=3", "--output", tmp_path / "there", "--json")
    assert ended.code == 0, ended.err
    printed = json.loads(ended.out)
    assert printed["folder"].startswith(str(tmp_path / "there" / "quick"))
    results = printed["runs"][0]["results"]
    assert results["seed"] == 3
    assert results["tasks"]["mood"]["examples_seen"] == 32  # one epoch, not the file's two


def test_run_without_json_shows_a_table_and_what_to_do_next(call, experiment_values, write_experiment):
    ended = call("run", write_experiment({**experiment_values, "tasks": experiment_values["tasks"][:1]}))
    assert ended.code == 0, ended.err
    assert "accuracy" in ended.out
    assert "mtl report" in ended.out
    assert "mtl predict" in ended.out


def test_predict_reads_standard_input_and_writes_a_line_a_text(call, finished):
    ended = call("predict", finished, stdin='the cat is good\n{"text": "bob is bad", "id": 7}\n')
    assert ended.code == 0, ended.err
    first, second = map(json.loads, ended.out.splitlines())
    assert first["input"] == "the cat is good"
    assert set(first["predictions"]) == {"mood", "rating"}
    assert second["input"] == {"text": "bob is bad", "id": 7}
    assert second["predictions"]["mood"]["label"] in ("good", "bad")


def test_predict_reads_a_file_and_asks_one_head(call, finished, tmp_path):
    (tmp_path / "texts.txt").write_text("the cat\nthe dög\n", encoding="utf-8")
    ended = call("predict", finished / "models" / "joint", "--input", tmp_path / "texts.txt", "--task", "mood")
    assert [set(json.loads(line)["predictions"]) for line in ended.out.splitlines()] == [{"mood"}] * 2
    assert "dög" in ended.out


def test_predict_reads_a_pipe_given_as_a_file(call, finished):
    reading, writing = os.pipe()
    with os.fdopen(writing, "w", encoding="utf-8") as stream:
        stream.write("the cat\n")
    ended = call("predict", finished / "models" / "joint", "--input", f"/dev/fd/{reading}", "--task", "mood")
    os.close(reading)
    assert len(ended.out.splitlines()) == 1


def test_predict_says_how_many_texts_were_not_read_whole(call, finished, caplog):
    long = " ".join(["cat"] * 200)
    ended = call("predict", finished, stdin=f"the cat\n{long}\n")
    assert len(ended.out.splitlines()) == 2
    [record] = caplog.records
    assert record.getMessage() == "standard input, row 1 to 2: 1 texts are longer than 32 tokens and are read so far"


def test_predict_of_nothing_is_nothing(call, finished):
    assert call("predict", finished, stdin="") == (0, "", "")


@pytest.mark.parametrize(
    ("stdin", "told"),
    [("a\n\nb\n", "line 2 is empty"), ('{"text": \n', "line 1 starts like a JSON object and is none"), ('{"txt": "a"}\n', "txt")],
)
def test_predict_names_the_line_that_it_cannot_read(call, finished, stdin, told):
    ended = call("predict", finished, stdin=stdin)
    assert ended.code == 2
    assert told in ended.err
    assert ended.err.startswith("Error: ")


def test_predict_of_an_unknown_task_is_refused(call, finished):
    ended = call("predict", finished, "--task", "moood", stdin="a\n")
    assert ended.code == 2
    assert "Did you mean 'mood'?" in ended.err


def test_report_writes_the_page_and_the_plots_again(call, finished):
    page, plots = finished / "results.md", sorted(finished.glob("plots/**/*.png"))
    before = page.read_text()
    for path in (page, *plots):
        path.unlink()
    ended = call("report", finished)
    assert ended.code == 0, ended.err
    assert "mood" in ended.out
    assert page.read_text() == before
    assert sorted(finished.glob("plots/**/*.png")) == plots
    assert plots


def test_report_as_json_gives_the_results(call, finished):
    printed = json.loads(call("report", finished, "--json").out)
    assert printed["comparison"] is None
    assert printed["results"] == [json.loads((finished / "results.json").read_text())]
