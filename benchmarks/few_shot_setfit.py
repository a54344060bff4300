"""The adaptation ``contrastive`` beside SetFit: accuracy and seconds of learning from 8 and 16 examples a class.

Measured: seconds from the texts of a support to a classifier (tokenising included), seconds of answering the test rows, and
their accuracy, on sst2, trec, subj and mr.
Same on both sides: MiniLM with mean pooling and length 1, float32, the support rows (drawn from train by the round's number)
and the test rows.
The set-up of SetFit: ``SetFitModel`` with its logistic regression and ``Trainer`` with the defaults of its
``TrainingArguments`` (batches of 16 pairs, one epoch of as many equal as unequal pairs, 2e-5), without logging and saving.
mtl adapts as ``mtl transfer`` and ``mtl adapt`` do, with the adaptation's defaults.
How: one process, the sides in turn after a warm-up of each; round r draws support r. Peak memory is that of a fresh process
that learns support 0 and answers. MFU is of round 0: the operations of learning and answering as each side makes them, counted
in that fresh process by ``torch.utils.flop_counter`` (padding in it, PyTorch's fused attention on a CPU not), over their time
and the best throughput of products of matrices here. Target: SetFit's mean accuracy, within the spread of its supports or
better, in at most a fifth of its time.

    DATA=path/to/data python benchmarks/few_shot_setfit.py
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import measuring
import numpy as np
import setfit
import torch
import transformers
from datasets import Dataset
from datasets.utils.logging import disable_progress_bar
from measuring import Spread
from sentence_transformers import SentenceTransformer
from torch.utils.flop_counter import FlopCounterMode

import mtl
from mtl.components import Builder
from mtl.config import Choice
from mtl.data.episodes import EpisodeRows
from mtl.data.features import featurize, join
from mtl.data.rows import Rows
from mtl.data.sources import load_splits
from mtl.model.inference import TaskData
from mtl.plugins import Plugins, load_plugins
from mtl.transfer.space import Space

TASKS = ("sst2", "trec", "subj", "mr")
SIDES = ("setfit", "mtl")


@dataclass
class Outcome:
    """What one side made of a support."""

    learning: float
    answering: float
    accuracy: float


class Target:
    """A classification with few labelled rows.

    Args:
        name: Its folder.
        plugins: Bring the kind and the encoder.
        test_rows: Of the test split, the first of a seeded shuffle.
        choice: The adaptation.
    """

    def __init__(self, name: str, plugins: Plugins, test_rows: int, choice: Choice) -> None:
        task = mtl.Task(name=name, kind="classification", data=f"{measuring.data_folder()}/{name}/{{split}}.jsonl")
        self.plugins, self.choice = plugins, choice
        self.kind = plugins.kinds.get(task.kind)(task, [])
        rows = load_splits(task, dict(self.kind.roles), Path.cwd())
        self.kind.fit(rows["train"])
        self.train = rows["train"]
        places = np.random.default_rng(0).permutation(len(rows["test"]))[:test_rows].tolist()
        self.test = rows["test"].take(places)
        self.encoder = measuring.load_minilm(plugins)
        self.asked = featurize(self.kind, self.test, self.encoder.tokenizer)

    def support(self, shots: int, number: int) -> Rows:
        """Draw so many rows of each class."""
        chosen, labels = np.random.default_rng(number), np.asarray(self.train["label"])
        drawn = [chosen.choice(np.flatnonzero(labels == label), shots, replace=False) for label in self.kind.class_names]
        return self.train.take(np.concatenate(drawn).tolist())

    def mtl(self, support: Rows) -> Outcome:
        """Learn and answer as mtl does."""
        with measuring.stopwatch() as learning:
            features = featurize(self.kind, support, self.encoder.tokenizer)
            pool = join([features, self.asked])
            space = Space(self.encoder, TaskData("target", self.kind, {}), pool)
            classes = tuple(range(len(self.kind.class_names)))
            rows = tuple(range(len(pool)))
            episode = EpisodeRows("target", classes, rows[: len(support)], rows[len(support) :])
            torch.manual_seed(0)
            predictor = Builder(self.plugins)("adaptation", self.choice).adapt(space, episode)
        with measuring.stopwatch() as answering:
            outputs = predictor(episode.query)
        right = outputs.argmax(-1) == space.kind.answers({"label": torch.from_numpy(self.asked.columns["label"])})
        return Outcome(learning["wall"], answering["wall"], float(right.float().mean()))

    def setfit(self, support: Rows, place: Path) -> Outcome:
        """Learn and answer as SetFit does."""
        body = SentenceTransformer(str(place), device="cpu", local_files_only=True)
        model = setfit.SetFitModel(model_body=body, model_head=setfit.modeling.LogisticRegression())
        texts, labels = list(support["text"]), [self.kind.class_names.index(label) for label in support["label"]]
        with tempfile.TemporaryDirectory() as folder, measuring.stopwatch() as learning:
            data = Dataset.from_dict({"text": texts, "label": labels})
            arguments = setfit.TrainingArguments(
                output_dir=folder, report_to="none", save_strategy="no", logging_strategy="no", show_progress_bar=False, seed=0
            )
            setfit.Trainer(model=model, args=arguments, train_dataset=data).train()
        with measuring.stopwatch() as answering:
            found = model.predict(list(self.test["text"]), use_labels=False, show_progress_bar=False)
        gold = [self.kind.class_names.index(label) for label in self.test["label"]]
        return Outcome(
            learning["wall"], answering["wall"], statistics.fmean(a == b for a, b in zip(found.tolist(), gold, strict=True))
        )


def parse() -> argparse.Namespace:
    parser = measuring.parser(__doc__)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), help="folders in DATA")
    parser.add_argument("--shots", type=int, nargs="+", default=[8, 16], help="rows a class")
    parser.add_argument("--test-rows", type=int, default=500, help="test rows")
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES, help="to look at one alone")
    parser.add_argument("--option", nargs="*", default=[], help="options of the adaptation, as steps=30")
    parser.add_argument("--memory", type=int, default=1, help="whether peak memory and operations of each side are measured")
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    parser.set_defaults(repeats=8)
    return parser.parse_args()


def main() -> None:
    options = parse()
    torch.set_num_threads(measuring.THREADS)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    disable_progress_bar()
    # First, while this process is small: a child's peak starts from what its parent holds.
    alone = {
        (name, shots, side): _alone(options, name, shots, side)
        for name in options.tasks
        for shots in options.shots
        for side in options.sides
        if options.memory and not options.child
    }
    throughput = 0.0 if options.child else measuring.matmul_throughput()
    plugins = load_plugins()
    place = plugins.encoders.get("minilm")()
    choice = Choice.model_validate({"name": "contrastive", **dict(_option(each) for each in options.option)})
    rows, figures = [], {}
    for name in options.tasks:
        target = Target(name, plugins, options.test_rows, choice)
        learn = {"mtl": target.mtl, "setfit": partial(target.setfit, place=place)}
        if options.child:
            support = target.support(options.shots[0], 0)
            learn[options.child](support)
            peak = measuring.peak_memory()
            with FlopCounterMode(display=False) as counter:
                learn[options.child](support)
            print(json.dumps({"peak": peak, "flops": counter.get_total_flops()}))
            return
        for side in options.sides:
            learn[side](target.support(2, 0))  # the warm-up
        for shots in options.shots:
            sides = {side: partial(_round, target, learn[side], shots) for side in options.sides}
            found = measuring.interleave(sides, options.repeats)
            costs = {side: alone[name, shots, side] for side in options.sides if alone}
            figures[f"{name}, {shots}"] = {**found, "alone": costs, "throughput": throughput}
            rows.append(_row(f"{name}, {shots}", found, costs, throughput))
            print(rows[-1], file=sys.stderr, flush=True)
    columns = ["task, shots"]
    columns += [
        f"{side}, {what}" for side in options.sides for what in ("accuracy", "learning, s", "answering, s", "peak, MB", "MFU, %")
    ]
    columns += ["times as fast"] if len(options.sides) > 1 else []
    measuring.publish("few_shot_setfit", options, measuring.table(columns, rows), figures)


def _alone(options: argparse.Namespace, name: str, shots: int, side: str) -> dict[str, float]:
    """Return the peak memory, in bytes, and the operations of one side in a fresh process."""
    same = ("--test-rows", options.test_rows, *(("--option", *options.option) if options.option else ()))
    found: dict[str, float] = measuring.in_fresh_process(__file__, side, "--tasks", name, "--shots", shots, *same)
    return found


def _round(target: Target, learn: Any, shots: int, number: int) -> Outcome:
    outcome: Outcome = learn(target.support(shots, number))
    return outcome


def _row(
    name: str, found: dict[str, Sequence[Outcome]], costs: Mapping[str, Mapping[str, float]], throughput: float
) -> list[str]:
    row = [name]
    for side, outcomes in found.items():
        accuracies = [outcome.accuracy for outcome in outcomes]
        sd = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
        row.append(f"{statistics.fmean(accuracies):.3f} ±{sd:.3f}")
        row += [Spread.of([getattr(outcome, what) for outcome in outcomes]).show() for what in ("learning", "answering")]
        first = outcomes[0].learning + outcomes[0].answering
        row.append(f"{costs[side]['peak'] / 1e6:,.0f}" if costs else "–")
        row.append(f"{measuring.utilisation(costs[side]['flops'], first, throughput):.0f}" if costs else "–")
    if len(found) > 1:
        theirs, ours = (found[side] for side in SIDES)
        row.append(Spread.of([a.learning / b.learning for a, b in zip(theirs, ours, strict=True)]).show(".1f"))
    return row


def _option(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    return name, float(value) if "." in value or "e" in value else int(value)


if __name__ == "__main__":
    main()
