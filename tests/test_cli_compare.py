"""``mtl compare`` and ``mtl report`` as a person uses them; bad input is told of on one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from conftest import sentiment_rows, splits

from mtl.cli import main
from mtl.errors import CheckpointError
from mtl.files import read_json


@pytest.fixture
def call(monkeypatch, capfd):
    """Call the command line; return exit code, output and errors."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["mtl", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        return (code, *capfd.readouterr())

    return run


@pytest.fixture
def file(encoder_folder, write_experiment, tmp_path):
    """An experiment that takes a moment."""
    return write_experiment(
        {
            "name": "cli",
            "encoder": {"name": str(encoder_folder), "max_length": 32},
            "tasks": [{"name": "mood", "kind": "classification", "data": splits(sentiment_rows(32))}],
            "budget": {"epochs": 1},
            "batch": {"size": 8},
            "evaluation": {"times": 1},
            "output": str(tmp_path / "runs"),
        }
    )


def test_a_grid_from_the_command_line_and_its_report_again(call, file, tmp_path, caplog):
    code, out, err = call("compare", file, "--over", "strategy=single,joint", "--seeds", 2, "--jobs", 1)
    assert code == 0, err
    assert "Δ joint" in out
    assert "Tasks, test split: of 1 compared with single, joint has the highest mean relative gain" in out
    assert "UNRELIABLE: 2 seeds" in out
    assert "report.html. Look again with: mtl report" in out
    assert "4 cells, 0 of them finished" in caplog.text
    assert "joint, seed 1: finished" in caplog.text
    folder = tmp_path / "runs" / "cli"
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Was it worth it? 4 of 4 cells over strategy (2), seed (2)." in page
    assert "mtl compare" in page  # the command to do it again
    assert "UNRELIABLE: 2 seeds" in page
    (folder / "report.html").unlink()
    code, out, err = call("report", folder)
    assert code == 0, err
    assert "The page is" in out
    assert (folder / "report.html").read_text(encoding="utf-8") == page


def test_a_dry_run_lists_the_cells_and_runs_none(call, file, tmp_path):
    code, out, err = call("compare", file, "--over", "strategy=single,joint", "--seeds", 3, "--dry-run", "--json")
    assert code == 0, err
    listed = json.loads(out)
    assert [each["cell"] for each in listed] == [f"{s}, seed {n}" for s in ("single", "joint") for n in (0, 1, 2)]
    assert not (tmp_path / "runs").exists()
    code, out, _ = call("compare", file, "--over", "strategy=single,joint", "--dry-run", "--jobs", 2)
    assert "2 cells in 2 folders, 2 at a time: 2 cells of which nothing is known yet." in " ".join(out.split())


def test_failed_cells_are_told_of_at_the_end_and_the_rest_is_shown(call, file):
    code, out, err = call("compare", file, "--over", "optimizer.learning_rate=1.0e-4,1.0e+30", "--jobs", 1)
    assert code == 2
    assert "accuracy" in out
    assert err.splitlines()[-1] == "Error: 1 of 2 cells failed. The same command tries them again."


def test_the_report_of_a_single_run_is_a_page_too(call, file, tmp_path):
    assert call("run", file)[0] == 0
    (folder,) = (tmp_path / "runs" / "cli").glob("joint-*")
    code, _, err = call("report", folder)
    assert code == 0, err
    assert "Was it worth it? 1 of 1 cells." in (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "pieces"),
    [
        (["--over", "strategi=joint"], ("there is no key 'strategi'", "'strategy'")),
        (["--over", "strategy"], ("--over 'strategy': write axis=value,value.",)),
        (["--over", "strategy="], ("axis 'strategy' has no values",)),
        (["--over", "strategy={a"], ("--over strategy={a", "with commas")),
        (["--over", "batch.size=8,0"], ("batch.size", "at least 1", "0")),
        (["--over", "strategy=joint,jiont"], ("Unknown strategy 'jiont'", "'joint'")),
        (["--backend", "daks"], ("Unknown backend 'daks'", "'dask'")),
        (["--address", "tcp://x"], ("backend 'loky'", "unknown option 'address'")),
        (["--set", "compare.matched=time"], ("compare.matched", "'examples', 'passes' or 'seconds'", "'time'")),
    ],
)
def test_what_is_wrong_with_a_grid_is_told(fails, file, arguments, pieces):
    fails("compare", file, *arguments, pieces=pieces)


def test_a_baseline_that_is_not_among_the_cells_is_told_of(call, file):
    code, _, err = call("compare", file, "--set", "compare.baseline=nothing", "--over", "seed=0,1", "-j", 1)
    assert code == 2
    assert "compare.baseline: there is no 'nothing'." in err
    assert "There are: joint." in err
    assert not list(file.parent.glob("**/results.json"))  # known before anything is run


def test_cells_with_other_test_rows_are_refused_before_they_run(fails, write_experiment, file, tmp_path):
    values = json.loads(file.read_text())
    other = [{**values["tasks"][0], "data": splits(sentiment_rows(48))}]
    path = write_experiment({**values, "compare": {"tasks": [values["tasks"], other]}}, "other.yaml")
    fails("compare", path, pieces=("cannot be compared", "task 'mood' is declared in two ways"))
    assert not (tmp_path / "runs").exists()


def folder_of(call, file, tmp_path) -> Path:
    assert call("compare", file, "--over", "seed=0,1", "--jobs", 1)[0] == 0
    return tmp_path / "runs" / "cli"


def test_a_half_written_cell_is_named(call, fails, file, tmp_path):
    folder = folder_of(call, file, tmp_path)
    torn = sorted(folder.glob("joint-*/results.json"))[0]
    torn.write_text(torn.read_text()[:50])
    fails("report", folder, pieces=(str(torn), "cannot be read"))


def test_results_of_another_version_are_named(call, fails, file, tmp_path):
    folder = folder_of(call, file, tmp_path)
    old = sorted(folder.glob("joint-*/results.json"))[0]
    old.write_text(json.dumps(read_json(old, CheckpointError) | {"version": 1}))
    fails("report", folder, pieces=(str(old), "version 1", "another output folder"))
    fails("compare", file, "--over", "seed=0,1", "--jobs", 1, pieces=(str(old), "version 1"))
