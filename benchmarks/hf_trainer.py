"""mtl's joint training beside the Hugging Face ``Trainer``: examples a second and test accuracy on TREC and SUBJ.

Measured: seconds of ``mtl.training.loop.Trainer.train()`` and of ``transformers.Trainer.train()``, both without
evaluations and checkpoints; tokenising is left out on both sides. Then the test accuracy of each task.
Same on both sides: MiniLM with SDPA in float32, mean pooling, dropout 0.1 and one linear layer a task, initial
weights, the batch size, the number of examples, AdamW (fused), one peak rate for encoder and heads, linear schedule
with warm-up, weight decay of matrices only, clipping at 1, and the loss: the mean over a batch's rows.
The set-up of Hugging Face: TREC and SUBJ in one ``datasets.Dataset`` with a column that says the task, shuffled by the
Trainer; one ``nn.Module`` with both heads that encodes a mixed batch in one pass; ``DataCollatorWithPadding``, which
pads to the longest of a batch; else the defaults of ``TrainingArguments``. It is quicker than training on one task
after the other would be, and gives it the same mixed batches that mtl has. Its best settings are
those that its users may switch on: ``train_sampling_strategy="group_by_length"`` and, where the processor has it, ``bf16=True``;
mtl is measured with ``precision: bf16`` too then.
mtl trains under the settings of ``mtl run`` (deterministic algorithms, freed memory kept).
Peak memory: of a fresh process that reads the data and learns from a twentieth of them.
MFU: operations that the tokens need (no padding; Chowdhery et al. 2022, arXiv:2204.02311, appendix B) over the time and the
best throughput of float32 products of matrices (of bfloat16 ones where they are used) in the same process.
Time to a metric (``--target 90``): seconds of training until both tasks have so much test accuracy, looked at after every
tenth step while the clock stands; a training ends there.
How: one process, the sides in turn after a warm-up of each; round r has seed r. With ``--turns 10`` each side has a process of
its own instead, and they take turns of ten steps, so that a slow minute of the machine is one of all sides.
Targets: 1.8 times the examples a second of the defaults and 1.3 times those of the best settings, accuracy the same within the
spread of the seeds.

    DATA=path/to/data python benchmarks/hf_trainer.py
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import measuring
import numpy as np
import torch
import transformers
from datasets import concatenate_datasets
from datasets.utils.logging import disable_progress_bar
from hf_side import TwoHeads, as_dataset
from measuring import Onlooker, Spread
from torch import Tensor, nn

from mtl.components import Builder
from mtl.config import Choice, ExperimentConfig, validate
from mtl.model.inference import TaskData, evaluate
from mtl.model.precision import Precision, in_bfloat16
from mtl.plugins import Plugins, load_plugins
from mtl.training.loop import Trainer
from mtl.training.strategy import StepReport, Strategy
from mtl.training.weighting import TaskLoss

DEFAULTS = "hf, defaults"


@dataclass
class Outcome:
    """What one training gave: seconds, counts and accuracies; and whether it ended at the target."""

    seconds: float
    steps: int
    rows: int
    padding: float
    flops: float
    reached: bool
    accuracy: dict[str, float]


class Looks:
    """Tests a model after every tenth step, if there is a target, and says when all tasks have reached it.

    Args:
        target: The accuracy, in percent.
        turns: After how many steps the other sides have their turn; 0 for never.
        test: Returns each task's accuracy.
    """

    def __init__(self, target: float | None, turns: int, test: Callable[[], Mapping[str, float]]) -> None:
        self.target, self.turns, self.test = target, turns, test
        self.seconds, self.reached = 0.0, False

    def after(self, step: int) -> bool:
        """Return whether a training may end with this step; what looking and waiting take is added to ``seconds``."""
        if self.turns and step % self.turns == 0:
            self.seconds += measuring.hand_over()
        if self.target is not None and step % 10 == 0:
            with measuring.stopwatch() as clock:
                self.reached = 100 * min(self.test().values()) >= self.target
            self.seconds += clock["wall"]
        return self.reached


class Looking(Onlooker):
    """An onlooker that ends mtl's training where :class:`Looks` says so."""

    def __init__(self, looks: Looks) -> None:
        super().__init__()
        self.looks = looks
        self.trainer: Trainer | None = None

    def step_end(self, step: int, examples: int, report: StepReport) -> None:
        """Count a step, and look."""
        super().step_end(step, examples, report)
        if self.looks.after(step) and self.trainer is not None:
            self.trainer.progress.stopped = True


class LookingCallback(transformers.TrainerCallback):
    """The same for the Hugging Face Trainer."""

    def __init__(self, looks: Looks) -> None:
        self.looks = looks

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Look."""
        if self.looks.after(state.global_step):
            control.should_training_stop = True


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
        self.backbone = measuring.load_minilm(self.plugins, "sdpa").backbone

    def limited(self, examples: int) -> Bench:
        """Return the same with another budget, for the warm-up."""
        other = copy.copy(self)
        other.examples, other.options = examples, argparse.Namespace(**{**vars(self.options), "turns": 0})
        return other

    def mtl(self, seed: int, precision: Precision = "fp32") -> Outcome:
        """Train and test with mtl."""
        config, build = self._experiment(seed), Builder(self.plugins)
        self.encoder.precision = precision
        self.encoder.backbone.load_state_dict(self.backbone.state_dict())
        model = measuring.make_model(self.encoder, self.data, seed)
        strategy: Strategy = build("strategy", Choice(name="joint"))
        strategy.setup([TaskLoss(name, 1.0, 1.0) for name in self.data], build)
        sampler = build("sampler", Choice(name="proportional"))

        def test() -> dict[str, float]:
            return {name: evaluate(model, task, "test", size=64)["accuracy"] for name, task in self.data.items()}

        onlooker = Looking(Looks(self.options.target, self.options.turns, test))
        with tempfile.TemporaryDirectory() as folder, measuring.settings_of_a_run():
            onlooker.trainer = Trainer(model, self.data, strategy, sampler, self.examples, config, Path(folder), onlooker)
            with measuring.stopwatch() as clock:
                onlooker.trainer.train()
        accuracy = test()
        self.encoder.precision = "fp32"
        return self._outcome(clock["wall"], onlooker.steps, onlooker, onlooker.looks, accuracy)

    def hugging_face(self, seed: int, **settings: Any) -> Outcome:
        """Train and test with the Hugging Face Trainer."""
        start = measuring.make_model(self.encoder, self.data, seed)  # for its heads: the same initial weights
        model = TwoHeads(copy.deepcopy(self.backbone), [start.head(name).linear for name in self.data])
        onlooker = Onlooker()
        # Not in the collator: the Trainer collates a batch more than it learns from.
        model.register_forward_pre_hook(partial(self._count, onlooker), with_kwargs=True)
        collator = transformers.DataCollatorWithPadding(self.encoder.tokenizer.backend)
        with tempfile.TemporaryDirectory() as folder:
            trainer = transformers.Trainer(
                model, self._arguments(folder, seed, settings), collator, concatenate_datasets(self.splits["train"])
            )
            trainer.remove_callback(transformers.PrinterCallback)

            def test() -> dict[str, float]:
                found = {name: trainer.predict(rows) for name, rows in zip(self.data, self.splits["test"], strict=True)}
                return {name: float((np.argmax(got.predictions, -1) == got.label_ids).mean()) for name, got in found.items()}

            looks = Looks(self.options.target, self.options.turns, test)
            trainer.add_callback(LookingCallback(looks))
            with measuring.stopwatch() as clock:
                trainer.train()
            return self._outcome(clock["wall"], trainer.state.global_step, onlooker, looks, test())

    @staticmethod
    def _count(onlooker: Onlooker, model: nn.Module, args: Any, given: Mapping[str, Tensor]) -> None:
        if model.training:
            onlooker.count(given["attention_mask"], len(given["labels"]))

    def _outcome(self, wall: float, steps: int, seen: Onlooker, looks: Looks, accuracy: dict[str, float]) -> Outcome:
        flops = measuring.training_flops(self.backbone.config, seen.tokens, seen.squares)
        return Outcome(wall - looks.seconds, steps, seen.rows, seen.padding, flops, looks.reached, accuracy)

    def _experiment(self, seed: int) -> ExperimentConfig:
        rate = self.options.learning_rate
        values = {
            "encoder": "minilm",
            "tasks": ["unused"],
            "batch": {"size": self.options.batch_size},
            "optimizer": {"learning_rate": rate, "head_learning_rate": rate, "weight_decay": 0.01, "warmup": 0.1},
            "evaluation": {"times": 0},
            "checkpoint": {"every_seconds": 1e9},
            "seed": seed,
        }
        return validate(values, "hf_trainer")

    def _arguments(self, folder: str, seed: int, settings: Mapping[str, Any]) -> transformers.TrainingArguments:
        steps = -(-self.examples // self.options.batch_size)
        return transformers.TrainingArguments(
            folder,
            per_device_train_batch_size=self.options.batch_size,
            per_device_eval_batch_size=64,
            max_steps=steps,
            learning_rate=self.options.learning_rate,
            weight_decay=0.01,
            warmup_steps=round(0.1 * steps),
            seed=seed,
            use_cpu=True,
            save_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,  # for a GPU only; it would warn
            logging_strategy="no",
            **settings,
        )


#: Each side: what trains, and with which settings beside the defaults.
SIDES: dict[str, tuple[Callable[..., Outcome], dict[str, Any]]] = {
    DEFAULTS: (Bench.hugging_face, {}),
    "mtl": (Bench.mtl, {}),
    "hf, by length": (Bench.hugging_face, {"train_sampling_strategy": "group_by_length"}),
    "mtl, bf16": (Bench.mtl, {"precision": "bf16"}),
    "hf, by length, bf16": (Bench.hugging_face, {"train_sampling_strategy": "group_by_length", "bf16": True}),
}


def summary(
    outcomes: Mapping[str, list[Outcome]], throughput: Mapping[bool, float], memory: Mapping[str, float]
) -> tuple[list[list[str]], dict[str, Any]]:
    """Return the table's rows and the figures behind them."""
    speeds = {side: [run.rows / run.seconds for run in runs] for side, runs in outcomes.items()}
    theirs = {side: Spread.of(found).median for side, found in speeds.items() if side.startswith("hf")}
    best = max(theirs, key=lambda side: theirs[side])
    rows, figures = [], {"best": best, "throughput": {"fp32": throughput.get(False), "bf16": throughput.get(True)}}
    for side, runs in outcomes.items():
        ratios = [
            Spread.of([own / other for own, other in zip(speeds[side], speeds[base], strict=True)]) if base in speeds else None
            for base in (DEFAULTS, best)
        ]
        used = Spread.of([measuring.utilisation(run.flops, run.seconds, throughput["bf16" in side]) for run in runs])
        seconds = Spread.of([run.seconds for run in runs])
        padding = Spread.of([100 * run.padding for run in runs])
        accuracy = {name: Spread.of([100 * run.accuracy[name] for run in runs]) for name in runs[0].accuracy}
        figures[side] = {
            "examples_per_second": Spread.of(speeds[side]),
            "seconds": seconds,
            "ratio": ratios[0],
            "ratio_to_best": ratios[1],
            "utilisation": used,
            "peak_megabytes": memory.get(side),
            "padding": padding,
            "accuracy": accuracy,
            "runs": runs,
        }
        shown = [accuracy[name].show(".1f") if name in accuracy else "–" for name in ("trec", "subj")]
        name = f"{side} (its best)" if side == best else side
        against = [ratio.show() if ratio else "–" for ratio in ratios]
        peak = f"{memory[side]:,.0f}" if memory else "–"
        shown.append(seconds.show(".1f") if all(run.reached for run in runs) else "–")
        rows.append([name, Spread.of(speeds[side]).show(".1f"), *against, used.show(".0f"), peak, padding.show(".1f"), *shown])
    return rows, figures


def in_turns(options: argparse.Namespace, sides: list[str]) -> dict[str, list[Outcome]]:
    """Train all sides side by side, in processes of their own that have turns of ``options.turns`` steps."""
    passed = ("epochs", "batch_size", "learning_rate", "warm_up", "test_rows", "target", "turns")
    given = {f"--{name.replace('_', '-')}": getattr(options, name) for name in passed}
    same = [part for name, value in given.items() if value is not None for part in (name, value)]
    rounds = []
    for seed in range(options.repeats):
        rounds.append(measuring.in_turns(__file__, {side: [side, "--seed", seed, *same] for side in sides}))
        print(f"  round {seed + 1} of {options.repeats} done", file=sys.stderr, flush=True)
    return {side: [Outcome(**found[side]) for found in rounds] for side in sides}


def main() -> None:
    parser = measuring.parser(__doc__)
    parser.add_argument("--epochs", type=float, default=0.2, help="passes over the 12,885 training rows")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-4, help="peak rate of encoder and heads")
    parser.add_argument("--warm-up", type=int, default=5, help="steps of the warm-up of each side")
    parser.add_argument("--test-rows", type=int, help="test on so few rows of each task: for a smoke test")
    parser.add_argument("--memory", type=int, default=1, help="whether the peak memory of each side is measured")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), help="one of them hf's. Default: all")
    parser.add_argument("--target", type=float, help="test accuracy, %%, of both tasks at which a training ends")
    parser.add_argument("--turns", type=int, default=0, help="sides train side by side in processes, in turns of so many steps")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.set_defaults(repeats=3)
    options = parser.parse_args()
    torch.set_num_threads(measuring.THREADS)
    disable_progress_bar()

    has_bfloat16 = in_bfloat16("auto", torch.device("cpu"))
    ways = {name: SIDES[name] for name in options.sides if has_bfloat16 or "bf16" not in name}
    if not any(name.startswith("hf") for name in ways):
        parser.error("--sides: name one of hf's that this processor can run, for the others to be compared with.")

    def sides(bench: Bench) -> dict[str, Callable[[int], Outcome]]:
        return {name: partial(way, bench, **settings) for name, (way, settings) in ways.items()}

    if options.child is not None:
        bench = Bench(options)
        if options.turns:
            sides(bench.limited(options.warm_up * options.batch_size))[options.child](0)
            measuring.hand_over()
        outcome = sides(bench)[options.child](options.seed)
        print(json.dumps(asdict(outcome) if options.turns else measuring.peak_memory()))
        return
    # First, while this process is small: a child's peak starts from what its parent holds.
    same = ("--epochs", min(options.epochs, 0.05), "--batch-size", options.batch_size, "--test-rows", 16)
    memory = {name: measuring.in_fresh_process(__file__, name, *same) / 1e6 for name in ways if options.memory}
    throughput = {low: measuring.matmul_throughput(low) for low in {"bf16" in name for name in ways}}
    if options.turns:
        outcomes = in_turns(options, list(ways))
    else:
        bench = Bench(options)
        measuring.interleave(sides(bench.limited(options.warm_up * options.batch_size)), 1)
        outcomes = measuring.interleave(sides(bench), options.repeats)
    rows, figures = summary(outcomes, throughput, memory)
    columns = [
        "side",
        "examples a second",
        "× hf, defaults",
        "× hf, best",
        "MFU, %",
        "peak, MB",
        "padding, %",
        "TREC, %",
        "SUBJ, %",
        "s to target",
    ]
    measuring.publish("hf_trainer", options, measuring.table(columns, rows), figures)


if __name__ == "__main__":
    main()
