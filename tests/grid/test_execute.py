"""Running a grid: no cell twice, no cell lost, whatever dies."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import ROOT, sentiment_rows, splits

import mtl
from mtl.config import Choice
from mtl.errors import ConfigError, GridError, MissingExtraError
from mtl.grid.cell import Cell
from mtl.grid.execute import execute
from mtl.grid.watch import Lines
from mtl_plugins.loky import Loky

#: Processes of a grid find this file by its name.
PLUGIN = f"{Path(__file__).parent / 'moods.py'}"


@pytest.fixture(autouse=True)
def _path_of_processes(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT / "tests" / "grid"), os.environ.get("PYTHONPATH")])))


@pytest.fixture
def values(encoder_folder, tmp_path):
    """An experiment that takes a moment."""
    return {
        "name": "grid",
        "encoder": {"name": str(encoder_folder), "max_length": 32},
        "tasks": [{"name": "mood", "kind": "classification", "data": splits(sentiment_rows(32))}],
        "budget": {"epochs": 1},
        "batch": {"size": 8},
        "evaluation": {"times": 1},
        "output": str(tmp_path / "runs"),
    }


def results_of(finished):
    """The results of each cell that has some, by its folder's name."""
    return {Path(run["folder"]).name: run["results"] for run in finished.runs if run["results"]}


def changed_at(finished):
    return {path: path.stat().st_mtime_ns for path in finished.folder.glob("*/results.json")}


def test_a_finished_cell_is_never_run_again_and_grids_share_cells(values):
    small = mtl.Experiment.of(**values).over({"strategy": ["single", "joint"], "seed": [0]}).compare(jobs=1)
    before = changed_at(small)
    assert len(before) == 2
    large = mtl.Experiment.of(**values).over({"strategy": ["joint", "single"], "seed": [0, 1]}).compare(jobs=1)
    after = changed_at(large)
    assert len(after) == 4
    assert {path: after[path] for path in before} == before
    assert [run["point"] for run in large.runs] == [{"strategy": s, "seed": n} for s in ("joint", "single") for n in (0, 1)]


def test_cells_of_one_configuration_are_one_run(values):
    finished = mtl.Experiment.of(**values).over({"strategy": ["joint", {"name": "joint"}]}).compare(jobs=1)
    assert len(finished.runs) == 2
    assert len(changed_at(finished)) == 1


def test_two_processes_give_what_one_gives(values):
    grid = {"strategy": ["single", "joint"], "seed": [0, 1]}
    here = mtl.Experiment.of(**values).over(grid).compare(jobs=1)
    there = mtl.Experiment.of(**{**values, "name": "there"}).over(grid).compare(jobs=2)
    mine, theirs = results_of(here), results_of(there)
    assert len(mine) == 4
    for results in (*mine.values(), *theirs.values()):
        results.pop("experiment")
    assert mine == theirs


def test_a_cell_that_fails_does_not_stop_the_others_and_is_tried_again(values, caplog):
    # A rate of 10³⁰ overflows in the first step; the other is fine.
    grid = mtl.Experiment.of(**values).over({"optimizer.learning_rate": [1e-4, 1e30], "seed": [0]})
    with caplog.at_level(logging.INFO, "mtl.grid"):
        finished = grid.compare(jobs=1, watch=Lines())
    good, bad = finished.runs
    assert good["error"] is None
    assert good["results"]["tasks"]["mood"]["value"] >= 0
    assert bad["results"] is None
    assert "The loss of task 'mood' is nan" in bad["error"]
    assert "1e+30, seed 0: failed: The " in caplog.text
    assert "0.0001, seed 0: finished" in caplog.text
    kept = json.loads((finished.folder / "comparison.json").read_text())
    assert "is nan" in kept["cells"][1]["error"]
    trace = json.loads((Path(bad["folder"]) / "failure.json").read_text())["traceback"]
    assert "TrainingError" in trace
    began = json.loads((Path(bad["folder"]) / "attempt.json").read_text())["attempt"]
    grid.compare(jobs=1)
    assert json.loads((Path(bad["folder"]) / "attempt.json").read_text())["attempt"] != began


def test_if_no_cell_can_be_finished_the_first_error_is_told(values):
    with pytest.raises(GridError, match=r"None of the 2 cells could be finished\. The first failed with: The loss of"):
        mtl.Experiment.of(**values).over({"optimizer.learning_rate": [1e30], "seed": [0, 1]}).compare(jobs=1)


def kill_once(cells: list[Cell], killed: list[str]) -> None:
    """Kill the first process that has begun a cell, as soon as it has written a checkpoint."""
    while not killed:
        for cell in cells:
            path = cell.folder / "attempt.json"
            if path.is_file() and not cell.finished and list(cell.folder.glob("models/*/checkpoints/*")):
                os.kill(json.loads(path.read_text())["process"], signal.SIGKILL)
                killed.append(cell.name)
                return
        time.sleep(0.01)


def test_a_process_that_is_killed_costs_its_cell_alone_which_goes_on(values, caplog):
    slow = {**values, "budget": {"epochs": 40}, "checkpoint": {"every_seconds": 0}, "evaluation": {"times": 0}}
    quiet = mtl.Experiment.of(**{**slow, "name": "quiet"}).over({"seed": [0, 1, 2]}).compare(jobs=1)
    experiment = mtl.Experiment.of(**slow).over({"seed": [0, 1, 2]})
    killed: list[str] = []
    killer = threading.Thread(target=kill_once, args=(experiment.cells(), killed), daemon=True)
    killer.start()
    finished = experiment.compare(jobs=2)
    killer.join(timeout=5)
    assert killed
    assert "its process may have died; it is run again by itself" in caplog.text
    assert all(run["error"] is None for run in finished.runs)
    mine, theirs = results_of(quiet), results_of(finished)
    for results in (*mine.values(), *theirs.values()):
        results.pop("experiment")
    assert mine == theirs


def test_a_cell_whose_process_dies_twice_has_failed_and_the_others_have_not(values):
    grid = mtl.Experiment.of(**values, plugins=[f"{PLUGIN}:DEADLY"]).over({"seed": [0, 13, 2]})
    finished = grid.compare(jobs=2)
    errors = {run["point"]["seed"]: run["error"] for run in finished.runs}
    assert errors[0] is None
    assert errors[2] is None
    assert "Its process died twice" in errors[13]
    assert "Is there enough memory?" in errors[13]


def test_a_backend_that_is_not_there_is_refused(values):
    with pytest.raises(mtl.MTLError, match=r"Unknown backend 'daks'\. Did you mean 'dask'"):
        mtl.Experiment.of(**values).compare(Choice(name="daks"))
    with pytest.raises(ConfigError, match=r"backend 'loky': unknown option 'address'"):
        mtl.Experiment.of(**values).compare(Choice(name="loky", address="tcp://x"))


def test_processes_that_cannot_run_a_cell_are_told_of(values, monkeypatch):
    cells = mtl.Experiment.of(**values).over({"seed": [0, 1]}).cells()

    class Broken(Loky):
        def connect(self, jobs, threads):
            from joblib import parallel_config

            monkeypatch.setattr("joblib.Parallel.__call__", lambda self, work: 1 / 0)
            return parallel_config("loky", n_jobs=2)

    with pytest.raises(GridError, match=r"No cell could be begun: ZeroDivisionError: division by zero\. Do the processes have"):
        execute(cells, Broken(), jobs=2, threads=1, plugins=[])


def test_a_missing_library_is_named(values, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingExtraError, match=r"mtl\[dask\]"):
        mtl.Experiment.of(**values).compare(Choice(name="dask"))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"mtl\[ray\]"):
        mtl.Experiment.of(**values).compare(Choice(name="ray"))


KILLED = """
import json, sys
import mtl

if __name__ == "__main__":
    mtl.Experiment.of(**json.loads(sys.argv[1])).over({"seed": [0, 1, 2, 3]}).compare(jobs=int(sys.argv[2]))
"""


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_grid_that_is_killed_loses_no_finished_cell_and_ends_as_if_it_had_not_been(values, tmp_path, jobs):
    slow = {**values, "budget": {"epochs": 60}, "checkpoint": {"every_seconds": 0}, "evaluation": {"times": 0}}
    quiet = mtl.Experiment.of(**{**slow, "name": "quiet"}).over({"seed": [0, 1, 2, 3]}).compare(jobs=1)
    script, folder = tmp_path / "killed.py", tmp_path / "runs" / "grid"
    script.write_text(KILLED)
    grid = subprocess.Popen([sys.executable, script, json.dumps(slow), str(jobs)], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 600
    while not list(folder.glob("*/results.json")) and grid.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(random.Random(jobs).random() / 2)
    grid.kill()
    grid.wait()
    time.sleep(3)  # its processes end with it
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/results.json")}
    assert 1 <= len(before) < 4
    finished = mtl.Experiment.of(**slow).over({"seed": [0, 1, 2, 3]}).compare(jobs=1)
    after = changed_at(finished)
    assert {path: after[path] for path in before} == before
    mine, theirs = results_of(quiet), results_of(finished)
    for results in (*mine.values(), *theirs.values()):
        results.pop("experiment")
    assert mine == theirs
