"""Results of runs, made up: what statistics and reports are tested on."""

from __future__ import annotations

from typing import Any


def task(value, *, metric="accuracy", up=True, **more) -> dict[str, Any]:
    """What a run has of a task that was trained."""
    about = {"kind": "classification", "metric": metric, "higher_is_better": up, "value": value, "trivial": 0.25}
    return {**about, "skill": 0.5, "rows": {"train": 8, "validation": 2, "test": 4}, "examples_seen": 16, "test": more}


def run(strategy, seed=0, *, tasks=None, targets=None, passes=100, examples=100, parameters=10) -> dict[str, Any]:
    """The results of a run. ``targets``: model → target → adaptation → shots → figures."""
    found = {
        group: {
            "figures": figures,
            "chosen": {},
            "metric": dict.fromkeys(figures, "accuracy"),
            "higher_is_better": dict.fromkeys(figures, True),
        }
        for group, figures in (targets or {}).items()
    }
    model = {"steps": 1, "examples": examples, "passes": passes, "parameters": parameters}
    models = {"joint": model} if tasks else {"none": {}}
    base = {"version": 3, "experiment": "made-up", "hash": f"{strategy}-{seed}", "strategy": strategy, "seed": seed}
    return {**base, "tasks": tasks or {}, "models": models, "targets": found, "overlaps": {}}


def points_of(results) -> list[dict[str, Any]]:
    """Where runs are on the axes strategy and seed."""
    return [{"strategy": each["strategy"], "seed": each["seed"]} for each in results]
