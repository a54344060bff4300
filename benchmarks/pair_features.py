"""How much the vectors of a pair should count beside what lies between them, where pairs are learned from a few rows.

Measured: balanced accuracy of nearest prototypes on [s u, s v, |u − v|, u · v, cos], of length 1, for several shares s, on
validation splits of SICK, MRPC and RTE read by the untouched MiniLM, each text on its own. Support rows are drawn from 700
train rows, 20 times; no target of a results table is among these tasks. What the kind takes is ``_OWN_SHARE`` of mtl.model.heads.

    DATA=path/to/data python benchmarks/pair_features.py
"""

from __future__ import annotations

from unittest.mock import patch

import measuring
import numpy as np
import torch

import mtl
from mtl.data.episodes import EpisodeRows
from mtl.data.features import Features, join
from mtl.model.inference import TaskData
from mtl.plugins import load_plugins
from mtl.transfer.space import Space
from mtl_plugins.prototype import Prototype

TASKS = ("sick", "mrpc", "rte")


def supports(labels: np.ndarray, shots: int, draws: int) -> list[tuple[int, ...]]:
    """Draw so many rows of each class, each time from a seed of its own."""
    drawn = []
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        chosen = [rng.choice(np.flatnonzero(labels == label), shots, replace=False) for label in np.unique(labels)]
        drawn.append(tuple(np.concatenate(chosen).tolist()))
    return drawn


def balanced(predicted: np.ndarray, gold: np.ndarray) -> float:
    """Return the mean over classes of the share of their rows that are right."""
    return float(np.mean([np.mean(predicted[gold == label] == label) for label in np.unique(gold)]))


def main() -> None:
    parser = measuring.parser(__doc__)
    parser.add_argument("--shares", type=float, nargs="+", default=[1.0, 0.5, 0.0], help="what u and v count")
    parser.add_argument("--shots", type=int, nargs="+", default=[4, 16], help="rows a class")
    parser.add_argument("--draws", type=int, default=20, help="supports")
    options = parser.parse_args()
    torch.set_num_threads(measuring.THREADS)
    plugins, folder = load_plugins(), measuring.data_folder()
    encoder = measuring.load_minilm(plugins)
    rows: dict[float, list[str]] = {share: [f"{share:g}"] for share in options.shares}
    figures = {}
    for name in TASKS:
        place = f"{folder}/{name}/{{split}}.jsonl"
        task = mtl.Task(name=name, kind="pair-classification", data=place, options={"pairing": "bi"})
        data = measuring.load_task(task, plugins, encoder)
        pool, few, labels = pool_of(data)
        for share in options.shares:
            with patch("mtl.model.heads._OWN_SHARE", share):
                space = Space(encoder, data, pool)
                means = [
                    float(
                        np.mean(
                            [measure(space, support, few, labels) for support in supports(labels[:few], shots, options.draws)]
                        )
                    )
                    for shots in options.shots
                ]
            rows[share].append(" / ".join(f"{100 * mean:.1f}" for mean in means))
            figures[f"{name}, {share:g}"] = means
    heads = ["u and v count", *(f"{name}, {' / '.join(map(str, options.shots))} rows a class" for name in TASKS)]
    measuring.publish("pair_features", options, measuring.table(heads, list(rows.values())), figures)


def pool_of(data: TaskData) -> tuple[Features, int, np.ndarray]:
    """Return 700 train rows with the validation split behind them, how many the first are, and the classes of all."""
    train = data.splits["train"]
    few = train.take(np.random.default_rng(0).permutation(len(train))[:700].tolist())
    pool = join([few, data.splits["validation"]])
    return pool, len(few), np.asarray(pool.columns["label"])


def measure(space: Space, support: tuple[int, ...], few: int, labels: np.ndarray) -> float:
    """Return the balanced accuracy of nearest prototypes after one support."""
    query = tuple(range(few, len(labels)))
    classes = tuple(range(len(space.kind.class_names)))
    outputs = Prototype().adapt(space, EpisodeRows("target", classes, support, query))(query)
    return balanced(outputs.argmax(-1).numpy(), labels[few:])


if __name__ == "__main__":
    main()
