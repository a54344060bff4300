"""A run that is killed and started again, however often, gives the same bytes as one that is not."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, entity_rows, rating_rows, sentiment_rows, splits
from typer.testing import CliRunner

import mtl
import mtl.run
from mtl.cli import app

#: A process with its imports behind it. For every line it forks one that runs the command line, and says how
#: that ended; importing torch again for every start would be most of the time of these tests.
STARTER = """
import json, os, sys
import mtl.cli, mtl.run, datasets, matplotlib.pyplot, torch._dynamo, transformers
import mtl_plugins.joint, mtl_tasks.classification, transformers.models.bert.modeling_bert, scipy.stats, sklearn.metrics
for line in sys.stdin:
    request = json.loads(line)
    child = os.fork()
    if not child:
        output = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1), os.dup2(output, 2)
        os.environ.update(request["environment"])
        sys.argv = ["mtl", *request["arguments"]]
        code = 0
        try:
            mtl.cli.main()
        except SystemExit as stopped:
            code = stopped.code or 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
#: Kills its process where the file KILLS says: a list of [hook, how many calls of it in this start].
KILLER = """
import json, os, signal
from pathlib import Path
import mtl

counts = {}

def reached(hook):
    plan = Path(os.environ["KILLS"])
    counts[hook] = counts.get(hook, 0) + 1
    kills = json.loads(plan.read_text())
    if kills and kills[0] == [hook, counts[hook]]:
        plan.write_text(json.dumps(kills[1:]))
        os.kill(os.getpid(), signal.SIGKILL)

@mtl.hookimpl
def mtl_run_start(run):
    reached("mtl_run_start")

@mtl.hookimpl
def mtl_batch_ready(run, batch):
    reached("mtl_batch_ready")

@mtl.hookimpl
def mtl_step_end(run, group, step, report):
    reached("mtl_step_end")

@mtl.hookimpl
def mtl_evaluation_end(run, group, step, metrics):
    reached("mtl_evaluation_end")

@mtl.hookimpl
def mtl_run_end(run, results):
    reached("mtl_run_end")
"""
JOINT = {"strategy": {"name": "joint", "weighting": "dwa"}, "batch": {"size": 8, "mixed": True, "accumulate": 2}}
ADAPTED = {
    **JOINT,
    "strategy": {"name": "joint", "weighting": "imtl-l"},
    "encoder": {"freeze": "all", "adapter": {"name": "adalora", "rank": 1, "initial_rank": 4, "per_task": True}},
}
SINGLE = {"strategy": {"name": "single", "weighting": "uncertainty"}, "batch": {"size": 8, "accumulate": 2}}
CHANGES: dict[str, dict[str, Any]] = {"joint": JOINT, "single": SINGLE, "adapted": ADAPTED}
#: What must be the same to the last bit.
COMPARED = (
    "results.json",
    "results.md",
    "data.json",
    "models/*/log.jsonl",
    "models/*/heads.safetensors",
    "models/*/bundle.json",
    "models/*/encoder/*",
)

Start = Callable[..., int]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    (folder / "killer_plugin.py").write_text(KILLER)
    return folder


@pytest.fixture(scope="module")
def environment(home) -> dict[str, str]:
    return {"MTL_CACHE": str(home / "cache"), "KILLS": str(home / "kills.json"), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def start(home, environment) -> Iterator[Start]:
    """Start ``mtl run`` in a process of its own and return its exit code; negative for a signal."""
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        cwd=ROOT,
    )

    def start(arguments: list[str], kills: list[list[Any]]) -> int:
        (home / "kills.json").write_text(json.dumps(kills))
        request = {"arguments": arguments, "environment": environment, "log": str(home / "output.txt")}
        starter.stdin.write(json.dumps(request) + "\n")
        starter.stdin.flush()
        return int(starter.stdout.readline())

    yield start
    starter.kill()
    starter.wait()
    starter.stdin.close()
    starter.stdout.close()


def write(home: Path, place: Path, name: str, **changes: Any) -> list[str]:
    """Write an experiment file and return the arguments that run it."""
    values = {
        "name": name,
        "encoder": {"name": str(place), "max_length": 32, **changes.pop("encoder", {})},
        "tasks": [
            {"name": "mood", "kind": "classification", "data": splits(sentiment_rows(64))},
            {"name": "rating", "kind": "regression", "data": splits(rating_rows(48))},
            {"name": "places", "kind": "token-classification", "data": splits(entity_rows(40))},
        ],
        "budget": {"epochs": 2},
        "evaluation": {"times": 3},
        "optimizer": {"learning_rate": 1e-3, "head_learning_rate": 1e-2},
        "checkpoint": {"every_seconds": 0},
        "threads": 1,
        "seed": 5,
        **changes,
    }
    (home / f"{name}.yaml").write_text(json.dumps(values))
    return ["run", str(home / f"{name}.yaml"), "--plugin", f"{home}/killer_plugin.py"]


def contents(folder: Path) -> dict[str, bytes]:
    """Return the compared files of the one run in ``folder``, by their place in it."""
    (run,) = (path for path in folder.glob("*/*") if path.is_dir())
    files = sorted(path for pattern in COMPARED for path in run.glob(pattern))
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


def output(home: Path) -> str:
    return (home / "output.txt").read_text()[-3000:]


@pytest.fixture(scope="module")
def uninterrupted(start, home, encoder_folder) -> dict[str, dict[str, bytes]]:
    """The files of the experiments, each run in one go."""
    found = {}
    for name, changes in CHANGES.items():
        arguments = write(home, encoder_folder, name, **changes)
        assert start([*arguments, "--output", str(home / name / "whole")], []) == 0, output(home)
        found[name] = contents(home / name / "whole")
    return found


def plan(seed: int, kills: int, steps: int) -> list[list[Any]]:
    """Draw moments to be killed at: in a step, before a batch, after an evaluation."""
    draw = random.Random(seed)
    hooks = ["mtl_step_end", "mtl_batch_ready", "mtl_step_end", "mtl_evaluation_end"]
    return [[hook, 1 if hook == "mtl_evaluation_end" else draw.randint(1, steps)] for hook in draw.sample(hooks, kills)]


# Joint: 2 epochs of 32 + 24 + 20 rows are 152 rows, in batches of 8 that are 19, two a step 10 steps. Single: 4, 3 and 3
# steps. With adapters: as joint. Each start makes at most 3 steps before it is killed, so that every kill comes to pass.
@pytest.mark.parametrize(("name", "seed"), [("joint", 0), ("single", 1), ("adapted", 2)])
def test_a_run_that_is_killed_again_and_again_gives_the_same_bytes(name, seed, start, home, encoder_folder, uninterrupted):
    arguments = write(home, encoder_folder, name, **CHANGES[name])
    arguments += ["--output", str(home / name / "killed")]
    kills = plan(seed, 3, 3)
    for number in range(len(kills)):
        assert start(arguments, kills[number:]) == -signal.SIGKILL, output(home)
        assert not list((home / name / "killed").glob("*/*/results.json"))
    assert start(arguments, []) == 0, output(home)
    assert contents(home / name / "killed") == uninterrupted[name]


def test_a_run_that_is_killed_by_the_clock_gives_the_same_bytes(start, home, environment, encoder_folder, uninterrupted):
    folder = home / "joint" / "clock"
    arguments = [*write(home, encoder_folder, "joint", **JOINT), "--output", str(folder)]
    (home / "kills.json").write_text("[]")
    # A process from the start, with hashes of its own.
    environment = {**os.environ, **environment, "PYTHONHASHSEED": "4711"}
    process = subprocess.Popen(
        [sys.executable, "-m", "mtl", *arguments], env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 600
    while not list(folder.glob("*/*/models/joint/checkpoints/step-*")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.005)
    time.sleep(random.Random(7).uniform(0, 0.15))
    process.send_signal(signal.SIGKILL)
    assert process.wait() in (-signal.SIGKILL, 0)
    assert start(arguments, []) == 0, output(home)
    assert contents(folder) == uninterrupted["joint"]


def test_the_log_has_every_step_once(uninterrupted):
    lines = [json.loads(line) for line in uninterrupted["joint"]["models/joint/log.jsonl"].splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, len([x for x in lines if "loss" in x]) + 1))
    assert len([line for line in lines if "skill" in line]) == 3


def test_a_finished_run_holds_no_checkpoint_no_temporary_file_and_no_pickle(start, home, uninterrupted):
    files = [path for path in (home / "joint").rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert not path.name.endswith(".part"), path
        assert "checkpoints" not in path.parts, path
        assert path.suffix not in (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".py"), path
        assert not path.read_bytes().startswith((b"\x80\x04", b"\x80\x05", b"\x80\x02", b"PK\x03\x04")), path


def test_a_finished_run_is_not_run_again(start, home, encoder_folder, uninterrupted):
    arguments = [*write(home, encoder_folder, "joint", **JOINT), "--output", str(home / "joint" / "whole")]
    # A start that read data would be killed here.
    assert start(arguments, [["mtl_run_start", 1]]) == 0, output(home)


class Counter:
    """Counts the steps of this start, and can stop them."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.stop_at = 0

    @mtl.hookimpl
    def mtl_step_end(self, step):
        self.steps.append(step)
        if step == self.stop_at:
            raise KeyboardInterrupt


COUNTER = Counter()


@pytest.fixture
def counter(monkeypatch):
    monkeypatch.setattr(COUNTER, "steps", [])
    monkeypatch.setattr(COUNTER, "stop_at", 0)
    return COUNTER


def test_zero_seconds_save_every_step(experiment_values, counter):
    counter.stop_at = 5
    experiment = mtl.Experiment.of(**experiment_values, checkpoint={"every_seconds": 0}, plugins=[f"{__name__}:COUNTER"])
    with pytest.raises(KeyboardInterrupt, match="^$"):
        experiment.run()
    saved = sorted(Path(experiment_values["output"]).glob("quick/*/models/joint/checkpoints/*"))
    # The fifth step is stopped before it is saved; of the others two are kept.
    assert [path.name for path in saved] == ["step-000000003.safetensors", "step-000000004.safetensors"]


def test_an_hour_saves_no_step_of_a_short_run(experiment_values, counter):
    counter.stop_at = 5
    experiment = mtl.Experiment.of(**experiment_values, checkpoint={"every_seconds": 3600}, plugins=[f"{__name__}:COUNTER"])
    with pytest.raises(KeyboardInterrupt, match="^$"):
        experiment.run()
    assert not list(Path(experiment_values["output"]).glob("quick/*/models/joint/checkpoints/*"))


def test_a_stop_after_the_training_does_not_cost_the_training(experiment_values, counter, monkeypatch):
    target = {"name": "tone", "kind": "classification", "data": splits(sentiment_rows(40))}
    tasks = [experiment_values["tasks"][0], target]
    experiment = mtl.Experiment.of(
        **{**experiment_values, "tasks": tasks, "budget": {"epochs": 1}},
        targets={"tasks": ["tone"], "shots": [2], "overlap": "allow", "baselines": []},
        checkpoint={"every_seconds": 0},
        plugins=[f"{__name__}:COUNTER"],
    )
    with monkeypatch.context() as patch:
        patch.setattr(mtl.run.Stage, "run", _interrupt)
        with pytest.raises(KeyboardInterrupt, match="^stopped here$"):
            experiment.run()
    assert counter.steps == [1, 2, 3, 4]  # 32 rows in batches of 8
    experiment.run()
    assert counter.steps == [1, 2, 3, 4]


def test_a_stop_while_the_report_is_written_leaves_the_run_unfinished(experiment_values, counter, monkeypatch):
    experiment = mtl.Experiment.of(**{**experiment_values, "tasks": experiment_values["tasks"][:1]})
    with monkeypatch.context() as patch:
        patch.setattr(mtl.run, "write_report", _interrupt)
        with pytest.raises(KeyboardInterrupt, match="^stopped here$"):
            experiment.run()
    finished = experiment.run()
    assert (finished.folder / "results.md").is_file()


def _interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt("stopped here")


def test_a_log_that_has_lost_its_end_and_parts_of_files_cost_nothing(experiment_values, counter, caplog):
    counter.stop_at = 4
    values = {**experiment_values, "tasks": experiment_values["tasks"][:1], "checkpoint": {"every_seconds": 0}}
    experiment = mtl.Experiment.of(**values, plugins=[f"{__name__}:COUNTER"])
    with pytest.raises(KeyboardInterrupt, match="^$"):
        experiment.run()
    [log] = Path(experiment_values["output"]).glob("*/*/models/*/log.jsonl")
    whole = log.read_bytes()
    log.write_bytes(whole[: len(whole) // 2])  # as a machine that dies may leave it
    part = log.with_name(".best.safetensors.abc.part")
    part.write_text("of a process that was killed")
    counter.stop_at = 0
    finished = experiment.run()
    assert not part.exists()
    for line in log.read_text().splitlines():
        json.loads(line)
    log.write_bytes(log.read_bytes()[:-9])
    assert CliRunner().invoke(app, ["report", str(finished.folder)], catch_exceptions=False).exit_code == 0
    assert "is torn; curves are drawn without it" in caplog.text


def test_data_that_changed_between_two_starts_are_refused(experiment_values, counter, tmp_path):
    counter.stop_at = 2
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in sentiment_rows(80)))
    values = {**experiment_values, "tasks": [{"name": "mood", "kind": "classification", "data": str(path)}]}
    experiment = mtl.Experiment.of(**values, plugins=[f"{__name__}:COUNTER"])
    with pytest.raises(KeyboardInterrupt, match="^$"):
        experiment.run()
    path.write_text("".join(json.dumps(row) + "\n" for row in sentiment_rows(82)))
    counter.stop_at = 0
    with pytest.raises(mtl.MTLError, match=r"Task 'mood': .*rows\.jsonl has changed since this run was started"):
        experiment.run()


def test_results_of_other_rows_than_there_are_now_are_shown_with_a_warning(experiment_values, tmp_path, caplog):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in sentiment_rows(80)))
    values = {**experiment_values, "tasks": [{"name": "mood", "kind": "classification", "data": str(path)}]}
    first = mtl.Experiment.of(**values).run()
    assert mtl.Experiment.of(**values).run().runs == first.runs
    assert not caplog.records
    path.write_text("".join(json.dumps(row) + "\n" for row in sentiment_rows(82)))
    assert mtl.Experiment.of(**values).run().runs == first.runs
    [record] = caplog.records
    assert "rows.jsonl has changed since this run was finished. Remove" in record.getMessage()
    caplog.clear()
    path.unlink()
    assert mtl.Experiment.of(**values).run().runs == first.runs
    [record] = caplog.records
    assert "whether its data are as they were cannot be said" in record.getMessage()


def test_two_processes_cannot_run_in_one_folder(experiment_values):
    from mtl.files import locked

    experiment = mtl.Experiment.of(**experiment_values)
    folder = Path(experiment_values["output"]) / "quick" / f"joint-{experiment.config.hash}"
    with locked(folder), pytest.raises(mtl.MTLError, match="is in use by another process"):
        experiment.run()
