"""The example of LEOPARD: all targets are asked after joint training on other tasks, with a tiny encoder and few rows."""

from __future__ import annotations

import pytest
import yaml
from conftest import ROOT, SHARED, needs_shared, smaller

import mtl

EXAMPLE = ROOT / "examples" / "leopard.yaml"


@needs_shared
def test_the_example_of_leopard_runs(encoder_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("DATA", str(SHARED))
    rows = {"train": 208, "validation": 208, "test": 30}  # 13 labels of 16 rows
    small = smaller(EXAMPLE, tmp_path, rows, shots=[4])
    overrides = [
        f"encoder.name={encoder_folder}",
        "encoder.max_length=32",
        f"output={tmp_path}",
        "targets.protocol.splits=2",
        "sources=[sst2, sick]",
        "budget={examples_per_task: 32}",
        "evaluation.times=0",
        "compare={strategy: [none, joint]}",
        "threads=1",
    ]
    finished = mtl.load_experiment(small, overrides).run()
    none, joint = (next(iter(run["results"]["targets"].values()))["figures"] for run in finished.runs)
    assert list(none) == list(joint) == yaml.safe_load(EXAMPLE.read_text())["targets"]["tasks"]
    assert len(none) == 10
    for found in (none, joint):
        for by in found.values():
            assert list(by) == ["prototype", "logistic C=1", "logistic C=1 name_weight=4"]
            assert all(len(figures["4"]) == 2 for figures in by.values())


@pytest.mark.parametrize("name", ["leopard", "few_shot_intents"])
def test_no_target_is_among_the_sources(name):
    values = yaml.safe_load((ROOT / "examples" / f"{name}.yaml").read_text())
    assert set(values["targets"]["tasks"]) <= {task["name"] for task in values["tasks"]}
    assert not set(values.get("sources", [])) & set(values["targets"]["tasks"])


def test_prototypes_are_learned_from_tasks_with_classes():
    values = yaml.safe_load(EXAMPLE.read_text())
    kinds = {task["name"]: task["kind"] for task in values["tasks"]}
    sources = values["compare"]["cells"]["protonet"]["sources"]
    assert {kinds[name] for name in sources} == {"classification", "pair-classification"}
    with_values = {name for name in kinds if name not in (*sources, *values["targets"]["tasks"])}
    assert {kinds[name] for name in with_values} == {"regression"}
