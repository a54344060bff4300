"""mtl's joint training beside the Hugging Face ``Trainer``: examples a second and test accuracy on TREC and SUBJ.

Measured: seconds of ``mtl.training.loop.Trainer.train()`` and of ``transformers.Trainer.train()``, both without
evaluations and checkpoints; tokenising is left out on both sides. Then the test accuracy of each task.
Same on both sides: MiniLM with SDPA in float32, mean pooling, dropout 0.1 and one linear layer a task, initial
weights, the batch size, the number of examples, AdamW (fused), one peak rate for encoder and heads, linear schedule
with warm-up, weight decay of matrices only, clipping at 1, and the loss: the mean over a batch's rows.
The set-up of Hugging Face: TREC and SUBJ in one ``datasets.Dataset`` with a column that says the task, shuffled by the
Trainer; one ``nn.Module`` with both heads that encodes a mixed batch in one pass; ``DataCollatorWithPadding``, which
pads to the longest of a batch; else the defaults of ``TrainingArguments``. It is quicker than training on one task
after the other would be, and gives it the same mixed batches that mtl has (``batch: {mixed: true}``). A third side,
``hf, by length``, has ``train_sampling_strategy="group_by_length"``, which its users may switch on.
mtl trains under the settings of ``mtl run`` (deterministic algorithms).
How: one process, the sides in turn after a warm-up of each; round r has seed r. Target: 1.5 times the examples a
second of the defaults, accuracy the same within the spread of the seeds.

    DATA=path/to/data python benchmarks/hf_trainer.py
"""

from __future__ import annotations

import argparse
import copy
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import measuring
import numpy as np
import torch
import transformers
from datasets import Dataset, concatenate_datasets
from datasets.utils.logging import disable_progress_bar
from measuring import Onlooker, Spread
from torch import Tensor, nn

from mtl.components import Builder
from mtl.config import Choice, ExperimentConfig, validate
from mtl.data.features import Features
from mtl.model.inference import TaskData, evaluate
from mtl.plugins import Plugins, load_plugins
from mtl.training.loop import Trainer
from mtl.training.strategy import Strategy
from mtl.training.weighting import TaskLoss


@dataclass
class Outcome:
    """What one training gave: seconds, counts and accuracies."""

    seconds: float
    steps: int
    rows: int
    padding: float
    accuracy: dict[str, float] = field(default_factory=dict)


class TwoHeads(nn.Module):
    """The module that a user of the Hugging Face Trainer writes for two tasks.

    Args:
        backbone: The ``AutoModel``.
        heads: A linear layer for each task.
    """

    def __init__(self, backbone: Any, heads: list[nn.Linear]) -> None:
        super().__init__()
        self.backbone, self.heads, self.dropout = backbone, nn.ModuleList(heads), nn.Dropout(0.1)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor, task: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """Return the loss and the logits, padded to the larger head."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        states = self.backbone(**inputs).last_hidden_state
        weights = attention_mask.unsqueeze(-1).float()
        pooled = self.dropout((states * weights).sum(1) / weights.sum(1))
        logits = pooled.new_full((len(pooled), max(head.out_features for head in self.heads)), float("-inf"))
        for number, head in enumerate(self.heads):
            own = (task == number).nonzero().squeeze(-1)
            logits[own, : head.out_features] = head(pooled[own])
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def as_dataset(features: Features, number: int) -> Dataset:
    """Turn mtl's features of a task into what the Hugging Face Trainer reads: the very same tokens and labels."""
    tokens = [features.tokenized[row][0].tolist() for row in range(len(features))]
    columns = {
        "input_ids": tokens,
        "attention_mask": [[1] * len(ids) for ids in tokens],
        "token_type_ids": [[0] * len(ids) for ids in tokens],
        "task": [number] * len(tokens),
        "label": np.asarray(features.columns["label"]).tolist(),
    }
    return Dataset.from_dict(columns)


class Bench:
    """The sides on the same tasks.

    Args:
        options: Of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.plugins: Plugins = load_plugins()
        self.encoder = measuring.load_minilm(self.plugins)
        tasks = measuring.read_tasks(measuring.data_folder(), options.test_rows)
        self.data: dict[str, TaskData] = {task.name: measuring.load_task(task, self.plugins, self.encoder) for task in tasks}
        self.splits = {
            split: [as_dataset(task.splits[split], number) for number, task in enumerate(self.data.values())]
            for split in ("train", "test")
        }
        epoch = sum(map(len, self.splits["train"]))
        size = options.batch_size
        # Part of an epoch ends with a full batch, so that both sides learn from as many rows in as many steps.
        part = max(size, size * round(options.epochs % 1 * epoch / size)) if options.epochs % 1 else 0
        self.examples = int(options.epochs) * epoch + part
        self.backbone = copy.deepcopy(self.encoder.backbone)

    def limited(self, examples: int) -> Bench:
        """Return the same with another budget, for the warm-up."""
        other = copy.copy(self)
        other.examples = examples
        return other

    def mtl(self, seed: int) -> Outcome:
        """Train and test with mtl."""
        config, build = self._experiment(seed), Builder(self.plugins)
        self.encoder.backbone.load_state_dict(self.backbone.state_dict())
        model = measuring.make_model(self.encoder, self.data, seed)
        strategy: Strategy = build("strategy", Choice(name="joint"))
        strategy.setup([TaskLoss(name, 1.0, 1.0) for name in self.data], build)
        sampler, onlooker = build("sampler", Choice(name="proportional")), Onlooker()
        with tempfile.TemporaryDirectory() as folder, measuring.settings_of_a_run():
            trainer = Trainer(model, self.data, strategy, sampler, self.examples, config, Path(folder), onlooker)
            with measuring.stopwatch() as figures:
                trainer.train()
        accuracy = {name: evaluate(model, task, "test", size=64)["accuracy"] for name, task in self.data.items()}
        return Outcome(figures["wall"], onlooker.steps, onlooker.rows, onlooker.padding, accuracy)

    def hugging_face(self, seed: int, by_length: bool = False) -> Outcome:
        """Train and test with the Hugging Face Trainer."""
        start = measuring.make_model(self.encoder, self.data, seed)  # for its heads: the same initial weights
        model = TwoHeads(copy.deepcopy(self.backbone), [start.head(name).linear for name in self.data])
        onlooker = Onlooker()
        # Not in the collator: the Trainer collates a batch more than it learns from.
        counter = model.register_forward_pre_hook(
            lambda module, args, given: onlooker.count(given["attention_mask"], len(given["labels"])), with_kwargs=True
        )
        collator = transformers.DataCollatorWithPadding(self.encoder.tokenizer.backend)
        with tempfile.TemporaryDirectory() as folder:
            trainer = transformers.Trainer(
                model, self._arguments(folder, seed, by_length), collator, concatenate_datasets(self.splits["train"])
            )
            trainer.remove_callback(transformers.PrinterCallback)
            with measuring.stopwatch() as figures:
                trainer.train()
            counter.remove()
            outcome = Outcome(figures["wall"], trainer.state.global_step, onlooker.rows, onlooker.padding)
            for name, test in zip(self.data, self.splits["test"], strict=True):
                found = trainer.predict(test)
                outcome.accuracy[name] = float((np.argmax(found.predictions, -1) == found.label_ids).mean())
        return outcome

    def _experiment(self, seed: int) -> ExperimentConfig:
        rate = self.options.learning_rate
        values = {
            "encoder": "minilm",
            "tasks": ["unused"],
            "batch": {"size": self.options.batch_size, "mixed": True},
            "optimizer": {"learning_rate": rate, "head_learning_rate": rate, "weight_decay": 0.01, "warmup": 0.1},
            "evaluation": {"times": 0},
            "checkpoint": {"every_seconds": 1e9},
            "seed": seed,
        }
        return validate(values, "hf_trainer")

    def _arguments(self, folder: str, seed: int, by_length: bool) -> transformers.TrainingArguments:
        steps = -(-self.examples // self.options.batch_size)
        return transformers.TrainingArguments(
            folder,
            per_device_train_batch_size=self.options.batch_size,
            per_device_eval_batch_size=64,
            max_steps=steps,
            learning_rate=self.options.learning_rate,
            weight_decay=0.01,
            warmup_steps=round(0.1 * steps),
            train_sampling_strategy="group_by_length" if by_length else "random",
            seed=seed,
            use_cpu=True,
            save_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,  # for a GPU only; it would warn
            logging_strategy="no",
        )


def summary(outcomes: Mapping[str, list[Outcome]]) -> tuple[list[list[str]], dict[str, Any]]:
    """Return the table's rows and the figures behind them."""
    rows, figures = [], {}
    base = [run.rows / run.seconds for run in outcomes["hf, defaults"]]
    for side, runs in outcomes.items():
        speeds = [run.rows / run.seconds for run in runs]
        ratio = Spread.of([speed / other for speed, other in zip(speeds, base, strict=True)])
        speed, padding = Spread.of(speeds), Spread.of([100 * run.padding for run in runs])
        accuracy = {name: Spread.of([100 * run.accuracy[name] for run in runs]) for name in runs[0].accuracy}
        figures[side] = {"examples_per_second": speed, "ratio": ratio, "padding": padding, "accuracy": accuracy, "runs": runs}
        shown = [accuracy[name].show(".1f") if name in accuracy else "–" for name in ("trec", "subj")]
        counts = f"{runs[0].rows:,} in {runs[0].steps:,}"
        rows.append([side, counts, speed.show(".1f"), ratio.show(), padding.show(".1f"), *shown])
    return rows, figures


def main() -> None:
    parser = measuring.parser(__doc__)
    parser.add_argument("--epochs", type=float, default=0.2, help="passes over the 12,885 training rows")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-4, help="peak rate of encoder and heads")
    parser.add_argument("--warm-up", type=int, default=5, help="steps of the warm-up of each side")
    parser.add_argument("--test-rows", type=int, help="test on so few rows of each task: for a smoke test")
    parser.set_defaults(repeats=3)
    options = parser.parse_args()
    torch.set_num_threads(measuring.THREADS)
    disable_progress_bar()
    bench = Bench(options)

    def sides(bench: Bench) -> dict[str, Any]:
        return {
            "hf, defaults": bench.hugging_face,
            "mtl": bench.mtl,
            "hf, by length": lambda seed: bench.hugging_face(seed, by_length=True),
        }

    measuring.interleave(sides(bench.limited(options.warm_up * options.batch_size)), 1)
    rows, figures = summary(measuring.interleave(sides(bench), options.repeats))
    columns = ["side", "examples in steps", "examples a second", "× hf, defaults", "padding, %", "TREC, %", "SUBJ, %"]
    measuring.publish("hf_trainer", options, measuring.table(columns, rows), figures)


if __name__ == "__main__":
    main()
