"""Names of classes are refused where no one would read them."""

from __future__ import annotations

import pytest
from conftest import sentiment_rows, splits

import mtl
from mtl.errors import ConfigError

NAMED = {"ways": 2, "shots": 1, "queries": 1, "names": True}


def cells(encoder_folder, tmp_path, strategy, episodes):
    """Check an experiment as every command does before anything slow begins."""
    tasks = [{"name": name, "kind": "classification", "data": splits(sentiment_rows(32))} for name in ("mood", "target")]
    targets = {"tasks": ["target"], "shots": [1], "baselines": ["none", "joint"]}
    values = {"encoder": str(encoder_folder), "tasks": tasks, "targets": targets, "output": str(tmp_path)}
    return mtl.Experiment.of(**values, strategy=strategy, episodes=episodes).cells()


@pytest.mark.parametrize("strategy", ["maml", "fomaml", "anil", "meta-sgd", "kfo", "reptile", "imaml", "r2d2", "matching"])
def test_names_are_refused_by_what_does_not_read_them(encoder_folder, tmp_path, strategy):
    with pytest.raises(ConfigError, match=f"episodes.names: strategy '{strategy}' does not read the names of classes"):
        cells(encoder_folder, tmp_path, strategy, NAMED)
    assert len(cells(encoder_folder, tmp_path, strategy, {**NAMED, "names": False})) == 3  # with none and joint


@pytest.mark.parametrize("strategy", ["protonet", "protomaml"])
def test_names_are_taken_by_what_reads_them_beside_the_baselines(encoder_folder, tmp_path, strategy):
    found = cells(encoder_folder, tmp_path, strategy, NAMED)
    assert [cell.config.strategy.name for cell in found] == ["none", "joint", strategy]
