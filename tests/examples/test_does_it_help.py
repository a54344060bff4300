"""The example that asks whether balancing helps: every method is a cell, and cells of each sort run on the real rows."""

from __future__ import annotations

import itertools
import shlex

import pytest
from conftest import ROOT, SHARED, needs_shared

import mtl

EXAMPLE = ROOT / "examples" / "does_it_help.yaml"


def test_every_weighting_aggregation_and_adapter_is_a_cell_of_the_example(monkeypatch):
    monkeypatch.setenv("DATA", "data")
    experiment = mtl.load_experiment(EXAMPLE)
    cells = experiment.cells()  # names and options are checked
    assert len(cells) == 3 * len({cell.point["cell"] for cell in cells})
    plugins = experiment.load_plugins()
    configs = [cell.config for cell in cells]
    options = [config.strategy.options for config in configs]

    def named(key):
        found = [given[key] for given in options if key in given]
        return {one if isinstance(one, str) else one["name"] for one in found}

    assert named("aggregation") == set(plugins.aggregations)
    assert named("weighting") | {"static"} == set(plugins.weightings)  # static is plain joint training
    assert {config.encoder.adapter.name for config in configs if config.encoder.adapter} == set(plugins.adapters)


def test_the_second_command_of_the_example_asks_the_same_of_the_ten_domains(monkeypatch):
    monkeypatch.setenv("DATA", "data")
    header = EXAMPLE.read_text(encoding="utf-8").split("\nname:")[0]
    command = header.replace("\\\n#", " ").replace("\n#", "\n").rpartition("mtl compare")[2].partition("'\n")
    words = shlex.split(command[0] + command[1])
    overrides = [after for word, after in itertools.pairwise(words) if word == "--set"]
    domains, six = mtl.load_experiment(EXAMPLE, overrides), mtl.load_experiment(EXAMPLE)
    assert [len(cell.config.tasks) for cell in domains.cells()] == [10] * len(six.cells())
    assert domains.config.budget.examples_per_task == 300


@needs_shared
@pytest.mark.parametrize("cell", ["joint, T 2", "upgrad", "branch", "mix"])
def test_cells_of_the_example_run(encoder_folder, tmp_path, monkeypatch, cell):
    monkeypatch.setenv("DATA", str(SHARED))
    found = next(c for c in mtl.load_experiment(EXAMPLE).cells() if c.point["cell"] == cell).config
    few = {"validation": 8, "test": 8}
    config = found.model_copy(
        update={
            "encoder": found.encoder.model_copy(update={"name": str(encoder_folder), "precision": "fp32"}),
            "budget": found.budget.model_copy(update={"examples_per_task": 24}),
            "tasks": tuple(task.model_copy(update={"max_rows": few}) for task in found.tasks),
            "output": tmp_path,
        }
    )
    (run,) = mtl.Experiment(config).run().runs
    assert set(run["results"]["tasks"]) == {"snips/intent", "snips/slots", "trec", "stsb", "subj", "rte"}
