"""The example that asks whether balancing helps: every method is a cell, and cells of each sort run on the real rows."""

from __future__ import annotations

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
