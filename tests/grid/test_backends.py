"""Loky, a real Dask scheduler with two worker processes, and a real local Ray give the same results."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import ROOT, sentiment_rows, splits

import mtl
from mtl.config import Choice
from mtl.errors import GridError

GRID = {"strategy": ["single", "joint"], "seed": [0, 1]}


@pytest.fixture(scope="module", autouse=True)
def _path_of_processes():
    with pytest.MonkeyPatch.context() as patch:
        places = [str(ROOT), str(ROOT / "plugins"), str(ROOT / "tasks"), os.environ.get("PYTHONPATH")]
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, places)))
        yield


@pytest.fixture(scope="module")
def values(encoder_folder, tmp_path_factory):
    return {
        "encoder": {"name": str(encoder_folder), "max_length": 32},
        "tasks": [{"name": "mood", "kind": "classification", "data": splits(sentiment_rows(32))}],
        "budget": {"epochs": 1},
        "batch": {"size": 8},
        "evaluation": {"times": 1},
        "output": str(tmp_path_factory.mktemp("backends")),
    }


@pytest.fixture(scope="module")
def alone(values):
    """What one process gives."""
    return results_of(mtl.Experiment.of(**values, name="alone").over(GRID).compare(jobs=1))


def results_of(finished):
    assert [run["error"] for run in finished.runs] == [None] * len(finished.runs)
    return [{key: value for key, value in run["results"].items() if key != "experiment"} for run in finished.runs]


@pytest.fixture(scope="module")
def dask_address():
    """A scheduler and two workers with one thread each, as processes of their own."""
    pytest.importorskip("distributed", reason="needs the extra dask")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    scheduler = [
        sys.executable,
        "-m",
        "distributed.cli.dask_scheduler",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--no-dashboard",
    ]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    processes = [subprocess.Popen(scheduler, **quiet), *(subprocess.Popen(worker, **quiet) for _ in range(2))]
    from distributed import Client

    with Client(address, timeout=120) as client:
        client.wait_for_workers(2, timeout=120)
    yield address
    for process in reversed(processes):
        process.terminate()
    for process in processes:
        process.wait(timeout=30)


def test_dask_gives_what_one_process_gives(values, alone, dask_address):
    finished = mtl.Experiment.of(**values, name="dask").over(GRID).compare(Choice(name="dask", address=dask_address))
    assert results_of(finished) == alone
    hosts = {json.loads((Path(run["folder"]) / "attempt.json").read_text())["process"] for run in finished.runs}
    assert os.getpid() not in hosts


def test_a_dask_worker_that_is_killed_costs_its_cell_alone(values, dask_address):
    slow = {**values, "budget": {"epochs": 40}, "checkpoint": {"every_seconds": 0}, "evaluation": {"times": 0}}
    seeds = {"seed": [0, 1]}
    expected = results_of(mtl.Experiment.of(**slow, name="undisturbed").over(seeds).compare(jobs=1))
    experiment = mtl.Experiment.of(**slow, name="disturbed").over(seeds)
    cells, killed = experiment.cells(), []

    def kill():
        while not killed:
            for cell in cells:
                path = cell.folder / "attempt.json"
                if path.is_file() and not cell.finished and list(cell.folder.glob("models/*/checkpoints/*")):
                    os.kill(json.loads(path.read_text())["process"], signal.SIGKILL)
                    killed.append(cell.name)
                    return
            time.sleep(0.01)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    finished = experiment.compare(Choice(name="dask", address=dask_address))
    killer.join(timeout=5)
    assert killed
    assert results_of(finished) == expected


def test_ray_gives_what_one_process_gives(values, alone):
    pytest.importorskip("ray", reason="needs the extra ray")
    finished = mtl.Experiment.of(**values, name="ray").over(GRID).compare(Choice(name="ray"), jobs=2)
    assert results_of(finished) == alone


def test_a_dask_scheduler_that_is_not_there_is_told_of(values):
    pytest.importorskip("distributed", reason="needs the extra dask")
    nowhere = Choice(name="dask", address="tcp://127.0.0.1:9", timeout_seconds=1)
    with pytest.raises(GridError, match=r"The Dask scheduler at tcp://127\.0\.0\.1:9 cannot be reached: .*Is it running"):
        mtl.Experiment.of(**values, name="nowhere").compare(nowhere)


def test_a_ray_cluster_that_is_not_there_is_told_of(values):
    pytest.importorskip("ray", reason="needs the extra ray")
    with pytest.raises(GridError, match=r"The Ray cluster at 127\.0\.0\.1:9 cannot be reached"):
        mtl.Experiment.of(**values, name="nowhere").compare(Choice(name="ray", address="127.0.0.1:9"))


ORPHANS = """
import os, sys, time
from joblib import Parallel, delayed
from mtl_plugins.loky import Loky

def wait(folder):
    open(f"{folder}/{os.getpid()}", "w").close()
    time.sleep(120)

if __name__ == "__main__":
    with Loky().connect(2, 1):
        Parallel(batch_size=1, pre_dispatch="n_jobs")(delayed(wait)(sys.argv[1]) for _ in range(2))
"""


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
def test_the_processes_of_a_killed_grid_end_with_it(tmp_path):
    (tmp_path / "orphans.py").write_text(ORPHANS)
    (tmp_path / "begun").mkdir()
    grid = subprocess.Popen([sys.executable, tmp_path / "orphans.py", tmp_path / "begun"], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 300
    while len(list((tmp_path / "begun").iterdir())) < 2 and time.monotonic() < until:
        time.sleep(0.2)
    workers = [Path("/proc") / path.name for path in (tmp_path / "begun").iterdir()]
    assert len(workers) == 2
    grid.kill()
    grid.wait()
    until = time.monotonic() + 20
    while any(map(lives, workers)) and time.monotonic() < until:
        time.sleep(0.2)
    assert not any(map(lives, workers))


def lives(process):
    """Whether a process is there and has not ended: nobody may have asked yet how it did."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
