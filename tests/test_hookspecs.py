"""Every hook is documented, and called in a real run with what it promises."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, sentiment_rows, splits

import mtl
from mtl.data.batches import Batch
from mtl.metrics import Metric
from mtl.model.encoder import Encoder
from mtl.run import Run
from mtl.training.strategy import StepReport
from mtl_plugins.bottleneck import BottleneckAdapter
from mtl_plugins.domain import Domain
from mtl_plugins.joint import Joint
from mtl_plugins.mean import Mean
from mtl_plugins.prototype import Prototype
from mtl_plugins.static import Static
from mtl_plugins.uniform import Uniform
from mtl_tasks.classification import Classification

_spec = importlib.util.spec_from_file_location("hooks_doc", ROOT / "scripts" / "hooks_doc.py")
assert _spec is not None
assert _spec.loader is not None
hooks_doc = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(hooks_doc)
HOOKS = hooks_doc.HOOKS
PAGE = ROOT / "docs" / "hooks.md"


class OwnKind(Classification):
    """A kind that the recorder brings."""


@dataclass
class OwnStrategy(Joint):
    """A strategy that the recorder brings."""


@dataclass
class OwnWeighting(Static):
    """A weighting that the recorder brings."""


@dataclass
class OwnAggregation(Mean):
    """An aggregation that the recorder brings."""


@dataclass
class OwnSampler(Uniform):
    """A sampler that the recorder brings."""


@dataclass
class OwnAdaptation(Prototype):
    """An adaptation that the recorder brings."""


@dataclass
class OwnProtocol(Domain):
    """A protocol that the recorder brings."""


class OwnBackend(mtl.Backend):
    """A backend that the recorder brings."""

    def connect(self, jobs, threads):
        """Run cells in this process."""
        from joblib import parallel_config

        return parallel_config("sequential")


class Recorder:
    """Implements every hook, registers one thing of each sort and remembers what it is called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.encoder = self.experiment = Path()
        self.fail_at = 0

    def of(self, hook: str) -> list[dict[str, Any]]:
        return [arguments for name, arguments in self.calls if name == hook]

    @mtl.hookimpl
    def mtl_register_tasks(self, register):
        self.calls.append(("mtl_register_tasks", {}))
        register(mtl.Task(name="own-task", kind="own-kind", data=splits(sentiment_rows(48))))
        register(mtl.Task(name="own-target", kind="own-kind", data=splits(sentiment_rows(40))))

    @mtl.hookimpl
    def mtl_register_kinds(self, register):
        self.calls.append(("mtl_register_kinds", {}))
        register("own-kind", f"{__name__}:OwnKind")

    @mtl.hookimpl
    def mtl_register_metrics(self, register):
        self.calls.append(("mtl_register_metrics", {}))
        register(Metric("own-metric", lambda outcome: 0.25), ["own-kind"])

    @mtl.hookimpl
    def mtl_register_strategies(self, register):
        self.calls.append(("mtl_register_strategies", {}))
        register("own-strategy", f"{__name__}:OwnStrategy")

    @mtl.hookimpl
    def mtl_register_weightings(self, register):
        self.calls.append(("mtl_register_weightings", {}))
        register("own-weighting", OwnWeighting)

    @mtl.hookimpl
    def mtl_register_aggregations(self, register):
        self.calls.append(("mtl_register_aggregations", {}))
        register("own-aggregation", OwnAggregation)

    @mtl.hookimpl
    def mtl_register_samplers(self, register):
        self.calls.append(("mtl_register_samplers", {}))
        register("own-sampler", OwnSampler)

    @mtl.hookimpl
    def mtl_register_adaptations(self, register):
        self.calls.append(("mtl_register_adaptations", {}))
        register("own-adaptation", OwnAdaptation)

    @mtl.hookimpl
    def mtl_register_adapters(self, register):
        self.calls.append(("mtl_register_adapters", {}))
        register("own-adapter", BottleneckAdapter)

    @mtl.hookimpl
    def mtl_register_protocols(self, register):
        self.calls.append(("mtl_register_protocols", {}))
        register("own-protocol", OwnProtocol)

    @mtl.hookimpl
    def mtl_register_backends(self, register):
        self.calls.append(("mtl_register_backends", {}))
        register("own-backend", f"{__name__}:OwnBackend")

    @mtl.hookimpl
    def mtl_register_encoders(self, register):
        self.calls.append(("mtl_register_encoders", {}))
        register("own-encoder", lambda: self.encoder)

    @mtl.hookimpl
    def mtl_register_experiments(self, register):
        self.calls.append(("mtl_register_experiments", {}))
        register("own-experiment", self.experiment)

    @mtl.hookimpl
    def mtl_run_start(self, run):
        self.calls.append(("mtl_run_start", {"run": run, "read": (run.folder / "data.json").exists()}))

    @mtl.hookimpl
    def mtl_encoder_loaded(self, run, encoder):
        self.calls.append(("mtl_encoder_loaded", {"run": run, "encoder": encoder}))

    @mtl.hookimpl
    def mtl_batch_ready(self, run, batch):
        self.calls.append(("mtl_batch_ready", {"run": run, "batch": batch}))

    @mtl.hookimpl
    def mtl_step_end(self, run, group, step, report):
        self.calls.append(("mtl_step_end", {"run": run, "group": group, "step": step, "report": report}))
        if step == self.fail_at:
            raise KeyError("no such thing")

    @mtl.hookimpl
    def mtl_evaluation_end(self, run, group, step, metrics):
        self.calls.append(("mtl_evaluation_end", {"run": run, "group": group, "step": step, "metrics": metrics}))

    @mtl.hookimpl
    def mtl_run_end(self, run, results):
        whole = (run.folder / "results.json").is_file() and (run.folder / "results.md").is_file()
        self.calls.append(("mtl_run_end", {"run": run, "results": results, "whole": whole}))

    @mtl.hookimpl
    def mtl_run_failed(self, run, error):
        self.calls.append(("mtl_run_failed", {"run": run, "error": error}))


RECORDER = Recorder()


@pytest.fixture(scope="module")
def recorded(encoder_folder, tmp_path_factory):
    """The recorder after one run that fails in the third step and is started again."""
    folder = tmp_path_factory.mktemp("recorded")
    RECORDER.encoder, RECORDER.experiment = encoder_folder, folder / "own.yaml"
    values = {
        "encoder": {"name": "own-encoder", "max_length": 32, "adapter": "own-adapter"},
        "tasks": ["own-task"],
        "targets": {
            "tasks": ["own-target"],
            "shots": [2],
            "protocol": {"name": "own-protocol", "draws": 2},
            "adaptation": "own-adaptation",
            "overlap": "allow",
            "baselines": [],
        },
        "strategy": {"name": "own-strategy", "weighting": "own-weighting"},
        "sampler": "own-sampler",
        "budget": {"epochs": 1},
        "batch": {"size": 8},
        "evaluation": {"times": 1},
        "checkpoint": {"every_seconds": 0},
        "threads": 1,
        "output": str(folder / "runs"),
    }
    RECORDER.experiment.write_text(json.dumps(values))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MTL_CACHE", str(folder / "cache"))
        patch.setattr(RECORDER, "fail_at", 3)
        experiment = mtl.load_experiment("own-experiment", plugins=[f"{__name__}:RECORDER"])
        with pytest.raises(mtl.MTLError, match="mtl_step_end") as failed:
            experiment.run()
        patch.setattr(RECORDER, "fail_at", 0)
        RECORDER.finished = experiment.run()
    RECORDER.failure = failed.value
    return RECORDER


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.__name__)
def test_hook_is_documented(hook):
    text = PAGE.read_text(encoding="utf-8")
    assert hooks_doc.signature_of(hook) in text
    assert hook.__doc__.strip().splitlines()[0].replace("``", "`") in text


def test_the_page_of_hooks_is_what_the_script_writes():
    assert PAGE.read_text(encoding="utf-8") == hooks_doc.page(), "run: python scripts/hooks_doc.py"


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.__name__)
def test_hook_is_called_in_a_run(hook, recorded):
    assert recorded.of(hook.__name__), "let Recorder implement it, and a run reach it"


def test_the_life_cycle_comes_in_order(recorded):
    order = [name for name, _ in recorded.calls if not name.startswith("mtl_register_")]
    # 24 training rows in batches of 8 are 3 steps; the third raises. The second start goes on with it, as
    # the checkpoint of the second step is there.
    step = ["mtl_batch_ready", "mtl_step_end"]
    start = ["mtl_run_start", "mtl_encoder_loaded"]
    assert order == [*start, *step * 3, "mtl_run_failed", *start, *step, "mtl_evaluation_end", "mtl_run_end"]


def test_every_registered_thing_is_in_use(recorded):
    (run,) = recorded.finished.runs
    assert run["results"]["strategy"] == "own-strategy"
    assert run["results"]["tasks"]["own-task"]["kind"] == "own-kind"
    assert run["results"]["tasks"]["own-task"]["test"]["own-metric"] == 0.25
    assert len(run["results"]["targets"]["joint"]["figures"]["own-target"]["own-adaptation"]["2"]) == 2
    (manifest,) = Path(run["folder"]).parent.glob("manifests/own-target-*.json")
    assert json.loads(manifest.read_text())["protocol"] == {"name": "own-protocol", "draws": 2}
    first = recorded.of("mtl_run_start")[0]["run"]
    brought = first.plugins.registered_by(first.plugins.infos[f"{__name__}:RECORDER"])
    assert brought == {
        "task": ["own-target", "own-task"],
        **{what: [f"own-{what}"] for what in ("kind", "strategy", "weighting", "sampler", "adaptation", "protocol", "backend")},
        **{what: [f"own-{what}"] for what in ("metric", "encoder", "experiment", "aggregation", "adapter")},
    }


def test_life_cycle_hooks_get_what_they_promise(recorded):
    runs = {id(arguments["run"]) for name, arguments in recorded.calls if "run" in arguments}
    assert len(runs) == 2  # one object a start
    assert all(isinstance(arguments["run"], Run) for _, arguments in recorded.calls if arguments)
    assert recorded.of("mtl_run_start")[0]["read"] is False
    assert all(isinstance(call["encoder"], Encoder) for call in recorded.of("mtl_encoder_loaded"))
    for call in recorded.of("mtl_batch_ready"):
        assert isinstance(call["batch"], Batch)
        assert call["batch"].parts["own-task"].rows == 8
    assert [call["step"] for call in recorded.of("mtl_step_end")] == [1, 2, 3, 3]
    for call in recorded.of("mtl_step_end"):
        assert call["group"] == "joint"
        assert isinstance(call["report"], StepReport)
        assert call["report"].losses["own-task"].shape == ()
        assert call["report"].weights == {"own-task": 1.0}
    (evaluation,) = recorded.of("mtl_evaluation_end")
    assert (evaluation["group"], evaluation["step"]) == ("joint", 3)
    assert {"loss", "accuracy", "own-metric"} <= set(evaluation["metrics"]["own-task"])
    (end,) = recorded.of("mtl_run_end")
    assert end["results"] == recorded.finished.runs[0]["results"]
    assert end["whole"]


def test_an_exception_in_a_hook_names_plugin_hook_and_error(recorded):
    told = f"Plugin '{__name__}:RECORDER' (named by the user) raised in hook mtl_step_end: KeyError: 'no such thing'"
    assert str(recorded.failure) == told
    assert recorded.of("mtl_run_failed")[0]["error"] is recorded.failure
