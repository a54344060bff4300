"""One run: an experiment without axes, in a folder of its own, that can be killed and started again."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch

from mtl.compatible import check_encoder, check_mix, check_per_task
from mtl.components import Builder
from mtl.config import Choice, ExperimentConfig
from mtl.data.dropping import featurize_splits
from mtl.data.features import default_cache, name_features
from mtl.data.rows import Rows
from mtl.data.sources import load_file, load_splits
from mtl.data.tokenizer import Tokenizer
from mtl.errors import CheckpointError, ConfigError, EncoderError, MTLError, UnknownNameError
from mtl.files import locked, read_json, remove_parts, to_json, write_json
from mtl.kind import TaskKind
from mtl.model.adapters import ADAPTERS_FILE
from mtl.model.bundle import Bundle
from mtl.model.device import find_device, multiplying
from mtl.model.encoder import Encoder, load_encoder
from mtl.model.heap import keeping_freed
from mtl.model.inference import TaskData, calibrate, evaluate, keep
from mtl.model.multitask import MultiTaskModel
from mtl.model.origin import Origin, hash_of
from mtl.model.practice import Practice
from mtl.model.precision import check_precision
from mtl.plugins import Plugins
from mtl.record import Stopwatch, check_fingerprints, describe, summarize, warn_of_changes
from mtl.report.write import write_report
from mtl.results import read_results
from mtl.seeds import seed_of
from mtl.task import Task
from mtl.training.loop import Trainer
from mtl.training.schedule import plan
from mtl.training.strategy import Draw, StepReport, Strategy
from mtl.training.weighting import TaskLoss
from mtl.transfer.adapt import practised_by
from mtl.transfer.beside import BesideUntouched
from mtl.transfer.overlap import trained_on
from mtl.transfer.stage import Stage, source_evaluator

_LOG = logging.getLogger(__name__)


class Display(Protocol):
    """Shows a person how a run gets on."""

    def say(self, text: str) -> None:
        """Say what happens now."""

    def training(self, group: str, examples: int) -> AbstractContextManager[Any]:
        """Show the progress of one training; the object entered has ``update(examples, losses)``."""


class Run:
    """One run of an experiment.

    Args:
        config: The experiment, without axes.
        plugins: The run's own plugins.
        folder: Where everything goes.
        display: Shows progress.
        bundle: A trained model whose transfer is measured; nothing is trained.

    Attributes:
        strategy: How the parameters are learned.
        group: The name of the model in training.
        model: The model in training, from its first batch on.
    """

    def __init__(
        self, config: ExperimentConfig, plugins: Plugins, folder: Path, display: Display, bundle: Bundle | None = None
    ) -> None:
        self.config, self.plugins, self.folder, self.display = config, plugins, folder, display
        self.build = Builder(plugins)
        self.group = ""
        self.model: MultiTaskModel
        self._bundle = bundle
        self.strategy: Strategy = self.build("strategy", config.strategy)
        practice = bundle.practice if bundle else None
        self._stage = Stage(config, self.build, folder.parent / "manifests", practice) if config.targets else None

    @property
    def model_folder(self) -> Path:
        """The folder of the model in training."""
        return self.folder / "models" / _folder_name(self.group)

    def check(self) -> None:
        """Check every name and option before anything slow begins.

        Raises:
            MTLError: If a task, kind, metric, strategy, sampler, weighting or adaptation is not there or not valid.
        """
        sources, targets, validation = self._tasks()
        for task in (*sources, *targets, *validation):
            kind = self._kind(task)
            _ = kind.primary_metric
            if not kind.episodic and (task in (*targets, *validation) or not self.strategy.trains_heads):
                raise ConfigError(
                    f"Task {task.name!r} is of kind {task.kind!r}, which cannot be learned from a few examples. Take it out of "
                    "the targets, or train it with the strategy joint or single."
                )
        _check_folders(list(self.strategy.groups([task.name for task in sources])))
        self.strategy.setup([TaskLoss(task.name, task.weight, 1.0) for task in sources], self.build)
        self.strategy.check(self.config, self.build("sampler", self.config.sampler))
        check_encoder(self.config, self.strategy)
        self._check_adapter()
        if self._stage:
            self._stage.check(self.strategy)
        check_precision(self.config.encoder.precision, find_device(self.config.device))
        how = self.config.evaluation.aggregate
        names = [task.name for task in sources]
        if how not in ("mean", "worst", *names):
            raise UnknownNameError("aggregate", how, ["mean", "worst", *names])

    def _check_adapter(self) -> None:
        choice = self.config.encoder.adapter
        given = choice is not None and self.build("adapter", choice).per_task
        if given if self._bundle is None else self._bundle.model.encoder.per_task:
            check_per_task(self.config, self.strategy)
        if self.config.encoder.mix if self._bundle is None else self._bundle.model.encoder.mixing:
            check_mix(self.config, self.strategy)

    def execute(self) -> dict[str, Any]:
        """Run to the end, from where an earlier start was stopped, and return the results.

        Raises:
            MTLError: If something in the experiment or its data is wrong. What was finished is kept.
        """
        with locked(self.folder):
            finished = self.folder / "results.json"
            if finished.is_file():
                warn_of_changes(self.folder, lambda: {task.name: self._read(task) for part in self._tasks() for task in part})
                return read_results(finished, CheckpointError)
            remove_parts(self.folder)
            try:
                with multiplying(find_device(self.config.device), tf32=self.config.tf32), keeping_freed():
                    return self._execute()
            except BaseException as error:
                try:
                    self.plugins.call("mtl_run_failed", run=self, error=error)
                except MTLError as second:
                    _LOG.warning("%s", second)  # what stopped the run is the news
                raise

    def _execute(self) -> dict[str, Any]:
        config, stopwatch = self.config, Stopwatch()
        self.check()
        plugins = {info.name: info.distribution for info in self.plugins.infos.values() if not info.failure}
        describe(self.folder, config, plugins)
        self.plugins.call("mtl_run_start", run=self)
        if config.threads:
            torch.set_num_threads(config.threads)
        torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms does the same, and loads the compiler
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        sources, targets, validation = self._tasks()
        self.display.say(f"reading {len(sources) + len(targets) + len(validation)} tasks")
        encoder = self._load_encoder()
        self.strategy.check_encoder(encoder)
        if self._stage:
            self._stage.check_encoder(encoder)
        learned = (*targets, *validation)
        data = {task.name: self._load(task, encoder.tokenizer, task in learned) for task in (*sources, *learned)}
        check_fingerprints(self.folder, data)
        if encoder.frozen_depth:
            self.display.say("running texts through the frozen layers")
            for features in (split for task in data.values() for split in task.splits.values()):
                keep(encoder, features)
        trained = {task.name: data[task.name] for task in sources}
        if self._stage:
            self._stage.prepare([data[task.name] for task in targets], [data[task.name] for task in validation])
            trained = self._stage.keep_apart(trained, self._bundle)
        examples = self._plan(trained)
        groups: dict[str, Any] = {}
        for group, names in self.strategy.groups(list(trained)).items():
            folder = self.folder / "models" / _folder_name(group)
            done = folder / "result.json"
            if not done.is_file():
                self.group = group
                fresh = self._load_encoder() if groups else encoder
                result = self._train(group, {name: trained[name] for name in names}, fresh, examples)
                write_json(done, result)
            for leftover in [*(folder / "checkpoints").glob("*"), folder / "best.safetensors"]:
                leftover.unlink(missing_ok=True)  # not before the result is there: a kill would cost the training
            groups[group] = read_json(done, CheckpointError)
        results: dict[str, Any] = json.loads(
            to_json(summarize(config, trained, groups, self._stage.overlaps if self._stage else {}))
        )
        seconds = {name: group["seconds"] for name, group in groups.items() if "seconds" in group}
        write_json(self.folder / "timing.json", stopwatch.read() | {"training_seconds": seconds})
        write_report(self.folder, results)
        write_json(self.folder / "results.json", results)  # last: it says that the run is finished
        self.plugins.call("mtl_run_end", run=self, results=results)
        return results

    def _read(self, task: Task) -> dict[str, Rows]:
        """Read a task's splits."""
        roles = dict(self.plugins.kinds.get(task.kind).roles)
        return {str(split): rows for split, rows in load_splits(task, roles, self.config.base).items()}

    def _tasks(self) -> tuple[list[Task], list[Task], list[Task]]:
        """Return the source tasks, the target tasks and those of meta-validation."""
        config = self.config
        listed: dict[str, Task] = {}
        for entry in config.tasks:
            task = entry if isinstance(entry, Task) else self.plugins.tasks.get(entry)
            if task.name in listed:
                raise ConfigError(f"tasks: {task.name!r} is listed twice.")
            listed[task.name] = task
        tested = config.targets.tasks if config.targets else ()
        looked_at = config.targets.validation if config.targets else ()
        names = (*tested, *looked_at)
        for key, chosen in (("sources", config.sources or ()), ("targets", names)):
            if twice := sorted({name for name in chosen if chosen.count(name) > 1}):
                raise ConfigError(f"{key}: task {twice[0]!r} is listed twice.")
        for name in names:
            if name not in listed and name not in self.plugins.tasks:
                raise UnknownNameError("target task", name, [*listed, *self.plugins.tasks], hint=self.plugins.tasks.hint)
        targets, validation = (
            [listed[name] if name in listed else self.plugins.tasks.get(name) for name in chosen]
            for chosen in (tested, looked_at)
        )
        for name in config.sources or ():
            if name not in listed:
                raise UnknownNameError("source task", name, listed)
            if name in names:
                raise ConfigError(f"Task {name!r} is among the sources and the targets; a target is not trained. Remove one.")
        sources = [listed[name] for name in config.sources or listed if name not in names]
        if not sources and self.strategy.trains:
            raise ConfigError(
                f"There is no task to train: of {', '.join(listed)} all are targets. List source tasks under 'tasks'."
            )
        if not targets and not self.strategy.trains:
            raise ConfigError(
                f"Strategy {config.strategy.name!r} trains nothing, and there are no targets: nothing is to be done. "
                "Name target tasks under 'targets'."
            )
        return sources, targets, validation

    def _kind(self, task: Task) -> TaskKind:
        kind: TaskKind = self.plugins.kinds.get(task.kind)(task, self.plugins.metrics_of(task.kind))
        return kind

    def _load(self, task: Task, tokenizer: Tokenizer, is_target: bool) -> TaskData:
        kind = self._kind(task)
        rows = self._read(task)
        if is_target and self._stage:
            files = self._stage.protocol.files(task.name, self._stage.targets_config.shots)
            rows |= {name: load_file(task, path, dict(kind.roles), self.config.base) for name, path in files.items()}
        splits, dropped = featurize_splits(kind, rows, tokenizer)
        cut = sum(features.tokenized.truncated for features in splits.values())
        if cut:
            _LOG.info("task %s: %d texts are longer than %d tokens and are cut", task.name, cut, tokenizer.max_length)
        return TaskData(task.name, kind, splits, name_features(kind, tokenizer), dropped)

    def _load_encoder(self) -> Encoder:
        if self._bundle is not None:
            encoder, config = self._bundle.model.encoder.to(find_device(self.config.device)), self._bundle.config
        else:
            encoder, config = self._load_untouched(), self.config.encoder
            if config.compile:
                encoder.compile_passes()
        if config.cache:
            encoder.keep_frozen(default_cache().parent / "states", round(config.cache * 2**30))
        return encoder

    def _load_untouched(self) -> Encoder:
        config = self.config.encoder
        place: str | Path = config.name
        if config.name in self.plugins.encoders:
            place = self.plugins.locate_encoder(config.name)
        elif (local := (self.config.base / config.name).expanduser()).is_dir():
            place = local
        known = list(self.plugins.encoders)
        encoder = load_encoder(config, place, cache=default_cache(), known=known)
        if (Path(place) / ADAPTERS_FILE).is_file():
            raise EncoderError(f"{place} has adapters beside its weights. Fold them in first: mtl export BUNDLE --output FOLDER")
        if config.adapter is not None:
            encoder.origin = Origin(config.name, hash_of(encoder)) if config.name in self.plugins.encoders else None
            encoder.put(self.build("adapter", config.adapter))
        self.plugins.call("mtl_encoder_loaded", run=self, encoder=encoder)
        return encoder.to(find_device(self.config.device))

    def _plan(self, trained: Mapping[str, TaskData]) -> dict[str, int]:
        """Deal the budget out over the tasks; every strategy gets the same."""
        if not trained or not self.strategy.trains:
            return dict.fromkeys(trained, 0)
        config = self.config
        features = {name: task.splits["train"] for name, task in trained.items()}
        total = config.budget.examples({name: len(rows) for name, rows in features.items()})
        return plan(features, self.build("sampler", config.sampler), config.batch, total, config.seed)

    def _train(self, group: str, data: dict[str, TaskData], encoder: Encoder, examples: Mapping[str, int]) -> dict[str, Any]:
        """Train one model, test it, and write its bundle."""
        if not self.strategy.trains:
            practised = practised_by(self._bundle, self.plugins) if self._bundle else None
            return {"tasks": {}} | self._transfer(encoder, practised or self.strategy)
        config, folder = self.config, self.model_folder
        kinds = {name: task.kind for name, task in data.items()}
        model = MultiTaskModel(encoder, kinds, lambda name: seed_of(config.seed, "head", name)).to(find_device(config.device))
        self.model = model
        strategy: Strategy = self.build("strategy", config.strategy)
        losses = [TaskLoss(name, kind.task.weight, kind.likelihood_factor) for name, kind in kinds.items()]
        strategy.setup(losses, self.build)
        total = sum(examples[name] for name in data)
        sampler = self.build("sampler", config.sampler)
        if self._stage:
            evaluator = self._stage.evaluator(data, strategy)
        else:
            evaluator = None if strategy.trains_heads else source_evaluator(config, self.build, data)
        with self.display.training(group, total) as bar:
            watcher = _Watcher(self, bar)
            limits = config.budget.limits(total / sum(examples.values()))
            trainer = Trainer(model, data, strategy, sampler, total, config, folder, watcher, evaluator, limits)
            parameters = trainer.left_alone + sum(parameter.numel() for parameter in trainer.parameters)
            progress = trainer.train()
        self.display.say(f"testing {group}")
        size = config.batch.evaluation_size
        tested = data if strategy.trains_heads else {}
        for task in tested.values():
            calibrate(model, task, size=size)
        tests = {name: evaluate(model, task, "test", size=size) for name, task in tested.items()}
        brought = {kind.task.kind: self.plugins.kinds.origin(kind.task.kind) for kind in kinds.values()}
        transferred = self._transfer(encoder, strategy)
        kept = model if strategy.trains_heads else MultiTaskModel(encoder, {}, lambda name: 0)
        chosen = transferred.get("transfer", {}).get("chosen", {})
        choices = {label: Choice.model_validate(choice) for label, choice in chosen.items()}
        practice = Practice(config.strategy, config.episodes, strategy.state_dict(), choices)
        seen = {name: trained_on(task) for name, task in data.items()}
        Bundle(kept, config.encoder, brought, practice, trained=seen).save(folder)
        return {
            "tasks": tests,
            "steps": progress.step,
            "examples": progress.examples,
            "examples_by_task": progress.examples_by_task,
            "passes": progress.passes,
            "seconds": progress.seconds,
            "parameters": parameters,
            "best_step": progress.best_step or progress.step,
            "stopped_early": progress.stopped,
        } | transferred

    def _transfer(self, encoder: Encoder, strategy: Strategy) -> dict[str, Any]:
        """Measure few-shot transfer of the encoder as it is now."""
        if not self._stage:
            return {}
        if self._stage.targets_config.beside_untouched and (strategy.trains or self._bundle is not None):
            encoder = BesideUntouched(encoder, self._load_untouched())
        return {"transfer": self._stage.run(encoder, strategy, self.display.say)}


class _Watcher:
    """Passes a training's progress on to plugins and to the display."""

    def __init__(self, run: Run, bar: Any) -> None:
        self._run, self._bar = run, bar

    def batch_ready(self, draw: Draw) -> None:
        for item in draw:
            for batch in item.batches:
                self._run.plugins.call("mtl_batch_ready", run=self._run, batch=batch)

    def step_end(self, step: int, examples: int, report: StepReport) -> None:
        self._bar.update(examples, report.losses)
        self._run.plugins.call("mtl_step_end", run=self._run, group=self._run.group, step=step, report=report)

    def evaluation_end(self, step: int, metrics: Mapping[str, Mapping[str, Any]]) -> None:
        self._run.plugins.call("mtl_evaluation_end", run=self._run, group=self._run.group, step=step, metrics=metrics)


def _folder_name(group: str) -> str:
    return group.replace("/", ".")


def _check_folders(groups: Sequence[str]) -> None:
    """Refuse models that would be kept in one folder.

    Raises:
        ConfigError: Naming both.
    """
    owners: dict[str, str] = {}
    for group in groups:
        other = owners.setdefault(_folder_name(group), group)
        if other != group:
            raise ConfigError(
                f"Models of {other!r} and {group!r} would share the folder {_folder_name(group)!r}. Rename one of them."
            )
