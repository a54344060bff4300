"""The one training loop, for every strategy."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from mtl.config import ExperimentConfig, OptimizerConfig
from mtl.errors import TrainingError
from mtl.files import to_json_line
from mtl.kind import TaskKind
from mtl.model.inference import TaskData, device_of, evaluate, evaluate_trivial, skill_of
from mtl.model.multitask import MultiTaskModel
from mtl.model.state import load_state, save_state
from mtl.model.used_tokens import narrow, widen
from mtl.seeds import seed_of
from mtl.training.checkpoint import load_checkpoint, save_checkpoint
from mtl.training.sampler import Sampler
from mtl.training.strategy import Draw, StepReport, Strategy

_LOG = logging.getLogger(__name__)
#: Steps whose losses are kept as tensors before they are written, so that a GPU is not waited for.
_LOG_EVERY_STEPS = 20


class Watcher(Protocol):
    """What is told of a training's progress."""

    def batch_ready(self, draw: Draw) -> None:
        """A draw is about to be learned from."""

    def step_end(self, step: int, examples: int, report: StepReport) -> None:
        """A step has been made; ``examples`` have been seen in all."""

    def evaluation_end(self, step: int, metrics: Mapping[str, Mapping[str, Any]]) -> None:
        """The validation splits have been looked at."""


@dataclass
class Progress:
    """Everything a training remembers beside tensors; JSON values only.

    ``passes`` counts the sequences that have gone through the encoder to learn from, in parts where they have gone through
    some of its layers; ``seconds`` is the time of the steps.
    """

    step: int = 0
    examples: int = 0
    examples_by_task: dict[str, int] = field(default_factory=dict)
    passes: float = 0.0
    seconds: float = 0.0
    evaluations: int = 0
    best_score: float | None = None
    best_step: int = 0
    since_best: int = 0
    stopped: bool = False
    log_bytes: int = 0


def rate_factor(config: OptimizerConfig, progress: float) -> float:
    """Return what the peak learning rates are multiplied by when ``progress`` of the budget is used."""
    if progress < config.warmup:
        return progress / config.warmup
    rest = (progress - config.warmup) / max(1e-12, 1 - config.warmup)
    factors = {"linear": 1 - rest, "cosine": 0.5 * (1 + math.cos(math.pi * rest)), "constant": 1.0}
    return max(0.0, factors[config.schedule])


#: Returns the validation metrics of each task, and the skill of each (see :meth:`mtl.Metric.skill`).
Evaluator = Callable[[MultiTaskModel, Strategy], tuple[Mapping[str, Mapping[str, Any]], dict[str, float]]]


class HeadsEvaluator:
    """Evaluates the validation split of every task by the task's own head."""

    def __init__(self, data: Mapping[str, TaskData], size: int) -> None:
        self._data, self._size = data, size
        self._trivial = {name: evaluate_trivial(task, "validation") for name, task in data.items()}

    def __call__(self, model: MultiTaskModel, strategy: Strategy) -> tuple[Mapping[str, Mapping[str, Any]], dict[str, float]]:
        """Return metrics and skills."""
        metrics = {name: evaluate(model, task, "validation", size=self._size) for name, task in self._data.items()}
        return metrics, skill_of(list(self._data.values()), metrics, self._trivial)


class Trainer:
    """Trains one model on its tasks, evaluates, keeps the best weights, survives being killed.

    Args:
        model: The model; its heads are the tasks.
        data: The tasks.
        strategy: Turns draws into gradients; set up for these tasks.
        sampler: Shares the examples among the tasks.
        examples: The budget.
        config: The experiment.
        folder: Where checkpoints and the log go.
        watcher: Is told of progress.
        limits: The most of ``passes`` or ``seconds``; the training ends where they or the examples are used up.
        evaluator: Looks at what has not been trained on. Default: the validation splits, by the tasks' heads.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        data: Mapping[str, TaskData],
        strategy: Strategy,
        sampler: Sampler,
        examples: int,
        config: ExperimentConfig,
        folder: Path,
        watcher: Watcher,
        evaluator: Evaluator | None = None,
        limits: Mapping[str, float] | None = None,
    ) -> None:
        self.model, self.data, self.strategy, self.config, self.watcher = model, data, strategy, config, watcher
        self.folder, self.log_path = folder, folder / "log.jsonl"
        self.examples = examples
        self._budget = {"examples": float(examples), **(limits or {})}
        self.left_alone = 0 if config.encoder.compile or not strategy.trains_heads else narrow_to(model, data)
        strategy.prepare(model)
        self.draws = strategy.draws(data, sampler, config, examples)
        groups = model.parameter_groups(
            config.optimizer.learning_rate, config.optimizer.head_learning_rate, config.optimizer.weight_decay
        )
        if extra := list(strategy.parameters()):
            groups.append({"params": extra, "lr": config.optimizer.head_learning_rate, "weight_decay": 0.0})
        self.parameters = [parameter for group in groups for parameter in group["params"]]
        fused = all(parameter.is_floating_point() for parameter in self.parameters)
        self.optimizer = torch.optim.AdamW(groups, betas=config.optimizer.betas, fused=fused)
        self.peak_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.progress = Progress()
        self._reports: list[tuple[int, int, float, torch.Tensor | None, StepReport]] = []
        self.evaluator = evaluator or HeadsEvaluator(data, config.batch.evaluation_size)

    def train(self) -> Progress:
        """Train to the end of the budget, from the last checkpoint if there is one, and load the best weights.

        Raises:
            TrainingError: If a loss or gradient is not finite; the last checkpoint is kept.
            CheckpointError: If the state cannot be written or read.
        """
        self._resume()
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        saved_at = time.monotonic()
        progress = self.progress
        for draw in self._draws():
            self._step(draw)
            if self._evaluation_is_due():
                self._evaluate()
            if time.monotonic() - saved_at >= self.config.checkpoint.every_seconds:
                self._save()
                saved_at = time.monotonic()
            if progress.stopped:
                _LOG.info("stopped early after %d evaluations without a better one", progress.since_best)
                break
            if self._used() >= 1:
                break
        self._write_log()
        if progress.best_score is not None:
            best = load_state(self.folder / "best.safetensors")
            self.model.load_state_dict(best["model"])
            self.strategy.load_state_dict(best["strategy"])  # what it has learned beside the model was looked at with it
        widen(self.model.encoder)
        return progress

    def _draws(self) -> Iterator[Draw]:
        device = device_of(self.model)
        while not self.progress.stopped:
            draw = next(self.draws, None)
            if draw is None:
                return
            yield [item.to(device) for item in draw]

    def _step(self, draw: Draw) -> None:
        progress, config = self.progress, self.config.optimizer
        self.watcher.batch_ready(draw)
        seen = sum(item.rows for item in draw)
        # The rate of a step is that of its middle, so that neither the first nor the last is 0.
        factor = rate_factor(config, max((progress.examples + seen / 2) / self.examples, self._used()))
        for group, peak in zip(self.optimizer.param_groups, self.peak_rates, strict=True):
            group["lr"] = peak * factor
        started = time.monotonic()
        with self._counting_passes():
            report = self.strategy.fill_gradients(self.model, draw)
        adapters, norm = self.model.encoder.adapters, None
        if adapters is not None:
            adapters.before_step()
        if config.clip is not None:
            norm = self._clip(config.clip)
        self.optimizer.step()
        progress.step += 1
        progress.examples += seen
        if adapters is not None:
            adapters.after_step(self._used())
        self.optimizer.zero_grad(set_to_none=True)
        for item in draw:
            for name, rows in item.rows_by_task.items():
                progress.examples_by_task[name] = progress.examples_by_task.get(name, 0) + rows
        with self._counting_passes():
            self.strategy.end_step(report, self._used())
        progress.seconds += time.monotonic() - started
        self._reports.append((progress.step, progress.examples, factor, norm, report))
        if len(self._reports) >= _LOG_EVERY_STEPS:
            self._write_log()
        self.watcher.step_end(progress.step, progress.examples, report)

    def _clip(self, most: float) -> torch.Tensor:
        """Return the norm of all gradients, ``[]``; a larger one than ``most`` is made ``most`` before the optimizer uses them.

        The fused optimizer does that as it reads them, which saves going through all gradients once.
        """
        norm = nn.utils.get_total_norm([parameter.grad for parameter in self.parameters if parameter.grad is not None])
        if self.optimizer.defaults["fused"]:
            self.optimizer.grad_scale = ((norm + 1e-6) / most).clamp(min=1).float()  # type: ignore[attr-defined]
        else:
            nn.utils.clip_grads_with_norm_(self.parameters, most, norm)
        return norm

    @contextmanager
    def _counting_passes(self) -> Iterator[None]:
        """Count the sequences that go through the encoder, those of inner loops too; n of its N layers count as n / N."""
        encoder, seen = self.model.encoder, 0
        layers = encoder.counted()

        def count(module: Any, arguments: Any, options: Mapping[str, Any]) -> None:
            nonlocal seen
            if not encoder.recomputing:  # checkpointing changes what a step costs, not what it learns from
                mask = options.get("attention_mask")  # None where no row is padded
                seen += len(arguments[0] if mask is None else mask)

        hooks = [layer.register_forward_pre_hook(count, with_kwargs=True) for layer in layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        self.progress.passes += seen / len(layers)

    def _used(self, parts: int = 1) -> float:
        """Return how many of ``parts`` equal parts of the budget are used, by that of its limits that is nearest."""
        used: list[float] = [getattr(self.progress, unit) * parts / most for unit, most in self._budget.items()]
        return min(parts, max(used))

    def _evaluation_is_due(self) -> bool:
        times = self.config.evaluation.times
        return times > 0 and self._used(times) >= self.progress.evaluations + 1

    def _evaluate(self) -> None:
        progress, config = self.progress, self.config.evaluation
        self._write_log()
        metrics, skills = self.evaluator(self.model, self.strategy)
        score = aggregate(skills, config.aggregate)
        progress.evaluations = int(self._used(config.times))
        progress.since_best += 1
        if progress.best_score is None or score > progress.best_score:
            progress.best_score, progress.best_step, progress.since_best = score, progress.step, 0
            best = {"model": self.model.state_dict(), "strategy": self.strategy.state_dict(), "step": progress.step}
            save_state(self.folder / "best.safetensors", best)
        progress.stopped = config.patience is not None and progress.since_best >= config.patience
        scalars = {
            name: {key: value for key, value in values.items() if isinstance(value, float)} for name, values in metrics.items()
        }
        self._append_log(
            [{"step": progress.step, "examples": progress.examples, "validation": scalars, "skill": skills, "score": score}]
        )
        self.watcher.evaluation_end(progress.step, metrics)

    def _write_log(self) -> None:
        lines = []
        for step, examples, factor, norm, report in self._reports:
            losses = {name: float(loss) for name, loss in report.losses.items()}
            for name, loss in losses.items():
                if not math.isfinite(loss):
                    raise TrainingError(
                        f"The loss of task {name!r} is {loss} at step {step}. Lower optimizer.learning_rate, or look at the "
                        "task's targets. The last checkpoint before it is kept."
                    )
            for name, weight in report.weights.items():
                if not math.isfinite(weight):
                    raise TrainingError(
                        f"The weight of task {name!r} is {weight} at step {step}, though the losses are finite. Look at the "
                        "weighting or aggregation that gives it. The last checkpoint before it is kept."
                    )
            if norm is not None and not math.isfinite(norm):
                raise TrainingError(
                    f"The gradient of {', '.join(map(repr, losses))} is not finite at step {step}. Lower "
                    "optimizer.learning_rate. The last checkpoint before it is kept."
                )
            line: dict[str, Any] = {"step": step, "examples": examples, "rate": factor, "loss": losses, "weight": report.weights}
            line |= {} if norm is None else {"gradient_norm": float(norm)}
            lines.append(line | ({"gradients": report.gradients} if report.gradients else {}))
        self._reports.clear()
        self._append_log(lines)

    def _append_log(self, lines: list[dict[str, Any]]) -> None:
        if lines:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.log_path.open("ab") as stream:
                stream.write("".join(f"{to_json_line(line)}\n" for line in lines).encode())
                self.progress.log_bytes = stream.tell()

    def _save(self) -> None:
        self._write_log()
        state = {
            "progress": vars(self.progress),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "strategy": self.strategy.state_dict(),
            "adapter": adapters.method.state_dict() if (adapters := self.model.encoder.adapters) else {},
            "draws": self.draws.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        save_checkpoint(self.folder / "checkpoints", self.progress.step, state)

    def _resume(self) -> None:
        state = load_checkpoint(self.folder / "checkpoints")
        if state is None:
            self.log_path.unlink(missing_ok=True)
            torch.manual_seed(seed_of(self.config.seed, "dropout"))
            return
        self.progress = Progress(**state["progress"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.strategy.load_state_dict(state["strategy"])
        if self.model.encoder.adapters is not None:
            self.model.encoder.adapters.method.load_state_dict(state["adapter"])
        self.draws.load_state_dict(state["draws"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"]:
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        if self.log_path.exists():  # lines after the checkpoint will be written again
            with self.log_path.open("r+b") as stream:
                whole = stream.read(self.progress.log_bytes).rfind(b"\n") + 1  # it may have lost its end where a machine has died
                stream.truncate(whole)
        _LOG.info("going on from step %d", self.progress.step)


def narrow_to(model: MultiTaskModel, data: Mapping[str, TaskData]) -> int:
    """Let the embeddings be trained of those tokens only that training texts have, and return how many weights that leaves alone.

    All are trained where a kind reads them, or draws its rows anew.
    """
    if any(task.kind.reads_embeddings or type(task.kind).redraw is not TaskKind.redraw for task in data.values()):
        return 0
    return narrow(model.encoder, (task.splits["train"].tokenized.input_ids.values for task in data.values()))


_AGGREGATES: dict[str, Callable[[list[float]], float]] = {
    "mean": lambda skills: sum(skills) / len(skills),
    "worst": min,
}


def aggregate(skills: Mapping[str, float], how: str) -> float:
    """Make one figure of the tasks' skills: their ``mean``, the ``worst``, or that of one task by name.

    A task name that this model does not train, as in single-task training, gives the mean.
    """
    return skills[how] if how in skills else _AGGREGATES.get(how, _AGGREGATES["mean"])(list(skills.values()))
