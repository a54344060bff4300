"""The transfer stage of a run: targets, their episodes, and every adaptation on them."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mtl.components import Builder
from mtl.config import Choice, EpisodesConfig, ExperimentConfig, TargetsConfig
from mtl.data.episodes import pools_of
from mtl.data.features import Features
from mtl.errors import ConfigError, did_you_mean
from mtl.kind import TaskKind
from mtl.metrics import mean_of
from mtl.model.encoder import Encoder
from mtl.model.inference import TaskData
from mtl.model.multitask import MultiTaskModel
from mtl.seeds import seed_of
from mtl.training.loop import Evaluator
from mtl.training.strategy import Strategy
from mtl.transfer.adaptation import Adaptation, of_classes_alone
from mtl.transfer.measure import (
    Figures,
    TransferEvaluator,
    episodes_of_validation,
    measure,
    transfer,
    trivial_of,
)
from mtl.transfer.overlap import asked_again, count_trained, refuse_shared_classes, validation_without_overlaps, without_overlaps
from mtl.transfer.protocol import Manifest, Protocol, identity_of, make_manifest
from mtl.transfer.space import Space

if TYPE_CHECKING:
    from mtl.model.bundle import Bundle
    from mtl.model.practice import Practice
    from mtl.model.trained import Trained

_LOG = logging.getLogger(__name__)
#: The adaptation that a strategy has practised, and what stands in for it where none was: for classes, and for values.
PRACTISED, UNPRACTISED, OF_VALUES = "inner-loop", Choice(name="prototype"), Choice(name="ridge")
#: The same with 0 shots.
BY_NAMES = Choice.model_validate({"name": "prototype", "name_weight": 1.0})


@dataclass(frozen=True)
class Target:
    """A target ready for work.

    Attributes:
        data: The task.
        pool: The rows that its episodes' numbers mean.
        manifest: Its episodes.
    """

    data: TaskData
    pool: Features
    manifest: Manifest


class Stage:
    """Few-shot transfer as an experiment has it.

    Args:
        config: The experiment; it has targets.
        build: Makes protocols and adaptations.
        folder: Where the manifests are kept, for all runs of an experiment.
        practice: What a bundle has practised, whose targets are then learned as it says.
    """

    def __init__(self, config: ExperimentConfig, build: Builder, folder: Path, practice: Practice | None = None) -> None:
        if config.targets is None:
            raise ConfigError("There is no transfer without targets: name tasks under 'targets'.")
        self.config, self.build, self.folder, self._practice = config, build, folder, practice
        self._episodes = config.episodes if practice is None else practice.episodes
        self.targets_config: TargetsConfig = config.targets
        self.protocol: Protocol = build("protocol", self.targets_config.protocol)
        self.targets: list[Target] = []
        self.validation: list[Target] = []
        self.overlaps: dict[str, dict[str, int]] = {}

    def check(self, strategy: Strategy) -> None:
        """Check names and options before anything slow begins.

        Raises:
            MTLError: If an adaptation or an option to be tuned is not there.
        """
        self._check_beside(strategy)
        names = [choice.name for choice in self.targets_config.adaptation]
        episodic = strategy.trains and not strategy.trains_heads
        for choice in self.targets_config.adaptation:
            if choice.name == PRACTISED:
                unable = episodic and not strategy.answers_by_names(self._episodes)
            else:
                unable = self.build("adaptation", choice).needs_support()
            if 0 in self.targets_config.shots and unable:
                raise ConfigError(
                    f"Target {self.targets_config.tasks[0]!r}: with 0 shots adaptation {choice.name!r} has nothing to learn "
                    "from, as it does not read the classes' names. Leave 0 out of targets.shots, or ask for 0 shots in an "
                    "experiment whose adaptations all read them (name_weight: 1; inner-loop of protonet with episodes.names)."
                )
        for key, values in self.targets_config.tune.items():
            name, _, option = key.partition(".")
            if name not in names or not option:
                near = did_you_mean(name, names)
                raise ConfigError(f"targets.tune: {key!r} is not adaptation.option. {near} Adaptations: {', '.join(names)}.")
            if not values:
                raise ConfigError(f"targets.tune: {key!r} has no values to choose from.")
            for value in values:
                self.build("adaptation", Choice(name=name, **{option: value}))
        if self.targets_config.tune and not self.targets_config.validation:
            raise ConfigError(
                "targets.tune: options are chosen on meta-validation tasks, and there are none. Name some under "
                "targets.validation; the targets themselves may not be looked at."
            )

    def check_encoder(self, encoder: Encoder) -> None:
        """Check that the adaptations can work with the encoder, before the tasks are read.

        Raises:
            MTLError: If one of them cannot.
        """
        for choice in self.targets_config.adaptation:
            for candidate in _candidates(choice, self.targets_config.tune) if choice.name != PRACTISED else ():
                self.build("adaptation", candidate).check_encoder(encoder)

    def _check_beside(self, strategy: Strategy) -> None:
        practised = any(choice.name == PRACTISED for choice in self.targets_config.adaptation)
        if self.targets_config.beside_untouched and practised and strategy.of_one_encoder:
            raise ConfigError(
                "targets.beside_untouched: an inner loop that a strategy has practised is of the encoder that it trained, not "
                "of two beside each other. Set it to false, or targets.adaptation to prototype, ridge or logistic."
            )

    def prepare(self, targets: Sequence[TaskData], validation: Sequence[TaskData]) -> None:
        """Draw the episodes of every target, or read them from the manifests.

        Raises:
            DataError: If a target has too few rows or classes; or if a task of meta-validation shares a class or a text with a
                target and the configuration does not allow for it.
        """
        for data in (*targets, *validation):
            self._check_answers(data)
        self.targets = [self._target(data) for data in targets]
        self.validation = [self._target(self._apart_from_targets(data)) for data in validation]

    def _check_answers(self, data: TaskData) -> None:
        """Refuse an adaptation to classes for a target of values."""
        for choice in self.targets_config.adaptation if not data.kind.class_names else ():
            if choice.name != PRACTISED and self.build("adaptation", choice).of_classes:
                raise of_classes_alone(choice.name, f"target {data.name!r}")

    def _apart_from_targets(self, data: TaskData) -> TaskData:
        """Return a task of meta-validation without what it shares with targets: what is chosen on it must not know them."""
        what = self.targets_config.overlap
        if self.protocol.unseen_classes and what != "allow":
            for target in self.targets:
                whose = f"validation task {data.name!r}"
                refuse_shared_classes(data.kind.class_names, whose, target.data, "other validation tasks")
        pools = {target.data.name: target.pool for target in self.targets}
        kept, found = validation_without_overlaps(data, self.protocol.pool(data), pools, what)
        if found:
            self.overlaps.setdefault(data.name, {}).update(found)
        return kept

    def _target(self, data: TaskData) -> Target:
        config, pool = self.targets_config, self.protocol.pool(data)
        options = config.protocol.model_dump(mode="json")
        about = {"protocol": options, "shots": list(config.shots), "seed": self.config.seed}
        digest = hashlib.sha256(json.dumps([about, identity_of(data, pool)], sort_keys=True).encode()).hexdigest()[:8]
        path = self.folder / f"{data.name.replace('/', '.')}-{digest}.json"
        manifest = make_manifest(path, self.protocol, options, data, pool, config.shots, self.config.seed)
        again, every = asked_again((episode for part in manifest.episodes.values() for episode in part), pool)
        if again:
            self.overlaps.setdefault(data.name, {})[data.name] = again
            _LOG.warning(
                "task %s: %d of %d queries have the words of a row of their own support, as texts are in it more than once; they "
                "are asked all the same, and counted under overlaps in results.json",
                *(data.name, again, every),
            )
        return Target(data, pool, manifest)

    def keep_apart(self, sources: Mapping[str, TaskData], bundle: Bundle | None = None) -> dict[str, TaskData]:
        """Return the sources without what they share with targets, or refuse them.

        Args:
            sources: The experiment's.
            bundle: What is measured without training. What it was trained on is compared in place of the sources.

        Raises:
            DataError: If a class or a text is in both and the configuration does not allow for it.
        """
        if bundle is not None and bundle.trained is not None:
            self._compare_trained(bundle.trained)
            return dict(sources)
        if bundle is not None:
            _LOG.warning(
                "bundle of %r: it does not say what it was trained on, as earlier versions wrote it. Whether it has learned from "
                "classes or texts of a target cannot be checked; the sources of this experiment are compared in their place",
                bundle.label,
            )
        what = self.targets_config.overlap
        if self.protocol.unseen_classes and what != "allow":
            for source in sources.values():
                for target in (*self.targets, *self.validation):
                    whose = f"source {source.name!r}"
                    refuse_shared_classes(source.kind.class_names, whose, target.data, "other sources")
        pools = {target.data.name: target.pool for target in (*self.targets, *self.validation)}
        kept = {}
        for name, data in sources.items():
            kept[name], found = without_overlaps(data, pools, what)
            if found:
                self.overlaps[name] = found
        return kept

    def _compare_trained(self, trained: Mapping[str, Trained]) -> None:
        """Refuse or count what a bundle has learned from targets."""
        what = self.targets_config.overlap
        for target in (*self.targets, *self.validation):
            if self.protocol.unseen_classes and what != "allow":
                for name, source in trained.items():
                    refuse_shared_classes(source.classes, f"source {name!r} of the bundle", target.data, "another bundle")
            for name, count in count_trained(trained, target.data.name, target.pool, what).items():
                self.overlaps.setdefault(name, {})[target.data.name] = count

    def evaluator(self, sources: Mapping[str, TaskData], strategy: Strategy) -> Evaluator | None:
        """Return what looks at a model in training; ``None`` if the sources' own validation is to do that."""
        config = self.targets_config
        if self.validation:
            looked_at = [
                (target.data, target.pool, episodes[: config.validation_episodes])
                for target in self.validation
                for episodes in target.manifest.episodes.values()
            ]
        elif strategy.trains_heads:
            return None
        else:
            return source_evaluator(self.config, self.build, sources)
        inner = TransferEvaluator(looked_at, self.config.batch.evaluation_size)

        def first(kind: TaskKind, trained: Strategy) -> Adaptation:
            return self.adaptation(next(iter(self._choices(trained, kind).values())), trained)

        return lambda model, trained: inner(model.encoder, lambda kind: first(kind, trained))

    def adaptation(self, choice: Choice, strategy: Strategy) -> Adaptation:
        """Make an adaptation; ``inner-loop`` is the strategy's own."""
        made: Adaptation = practised(choice, strategy, self.config, self._episodes, self.build)
        return made

    def run(self, encoder: Encoder, strategy: Strategy, say: Callable[[str], None]) -> dict[str, Any]:
        """Measure transfer of an encoder as it is now.

        Returns:
            ``figures``: target → adaptation → shots → figure of each episode; ``chosen``: the options of adaptations
            that were tuned; ``transductive``: the adaptations that answer queries together; ``metric``: target → its primary
            metric; ``higher_is_better``: target → its direction;
            ``looked_at``: target → adaptation → confusion matrices and the like, of the most shots, over all episodes.
        """
        self._check_beside(strategy)
        size = self.config.batch.evaluation_size
        chosen = self._tune(encoder, strategy, say)
        figures: dict[str, dict[str, Figures]] = {}
        looked_at: dict[str, dict[str, Any]] = {}
        made = {label: self.adaptation(choice, strategy) for label, choice in chosen.items()}
        for target in self.targets:
            say(f"transfer to {target.data.name}")
            space, name = Space(encoder, target.data, target.pool, size=size), target.data.name
            figures[name], looked_at[name] = {}, {}
            for label in self._choices(strategy, target.data.kind):
                figures[name][label], looked_at[name][label] = transfer(space, target.manifest, made[label])
        metrics = {target.data.name: target.data.kind.primary_metric.name for target in self.targets}
        options = {label: choice.model_dump(mode="json") for label, choice in chosen.items()}
        better = {target.data.name: target.data.kind.primary_metric.higher_is_better for target in self.targets}
        return {
            "figures": figures,
            "chosen": options,
            "transductive": [label for label, adaptation in made.items() if adaptation.transductive],
            "metric": metrics,
            "higher_is_better": better,
            "looked_at": looked_at,
        }

    def _choices(self, strategy: Strategy, kind: TaskKind) -> dict[str, Choice]:
        """Return the adaptations to measure, by label; the untouched encoder always has nearest prototypes, for values ridge."""
        choices = list(self.targets_config.adaptation)
        simple = UNPRACTISED if kind.class_names else OF_VALUES
        if 0 in self.targets_config.shots and kind.class_names:
            simple = BY_NAMES
        if strategy.adaptation(self._episodes) is None:
            choices = [simple if choice.name == PRACTISED else choice for choice in choices]
        if not strategy.trains and not any(choice.name == simple.name for choice in choices):
            choices.insert(0, simple)
        different = [Choice.model_validate_json(text) for text in dict.fromkeys(choice.model_dump_json() for choice in choices)]
        times = Counter(choice.name for choice in different)
        labels: dict[str, Choice] = {}
        for choice in different:
            told = choice.options if times[choice.name] > 1 else {}
            labels[" ".join([choice.name, *(f"{key}={value}" for key, value in told.items())])] = choice
        return labels

    def _tune(self, encoder: Encoder, strategy: Strategy, say: Callable[[str], None]) -> dict[str, Choice]:
        """Choose the options to be tuned on the validation tasks; the targets are not looked at."""
        choices = {label: c for target in self.targets for label, c in self._choices(strategy, target.data.kind).items()}
        size, most = self.config.batch.evaluation_size, self.targets_config.validation_episodes
        spaces = [(Space(encoder, target.data, target.pool, size=size), target) for target in self.validation]
        for label, choice in choices.items():
            candidates = list(_candidates(choice, self.targets_config.tune))
            if len(candidates) < 2:
                choices[label] = candidates[0] if self._practice is None else self._practice.frozen(candidates[0])
                if choices[label] != candidates[0]:
                    _LOG.info("%s: %s, as was chosen when the bundle was trained", label, choices[label].options)
                continue
            own = [pair for pair in spaces if label in self._choices(strategy, pair[1].data.kind)]
            say(f"choosing options of {label}")
            scores = []
            for candidate in candidates:
                adaptation = self.adaptation(candidate, strategy)
                skills = [
                    target.data.kind.primary_metric.skill(
                        mean_of([measure(space, episode, adaptation) for episode in episodes[:most]]),
                        trivial_of(target.data, target.pool),
                    )
                    for space, target in own or spaces
                    for episodes in target.manifest.episodes.values()
                ]
                scores.append(float(np.mean(skills)))
            choices[label] = candidates[int(np.argmax(scores))]
        return choices


def practised(choice: Choice, strategy: Strategy, config: ExperimentConfig, episodes: EpisodesConfig, build: Builder) -> Any:
    """Make an adaptation, or take the one that the strategy has practised in ``episodes``.

    Raises:
        ConfigError: If it has practised none.
    """
    if choice.name != PRACTISED:
        return build("adaptation", choice)
    own = strategy.adaptation(episodes)
    if own is None:
        raise ConfigError(
            f"Adaptation 'inner-loop' is what an episodic strategy has practised; {config.strategy.name!r} has practised none. "
            "Take prototype, ridge, logistic or full."
        )
    return own


def source_evaluator(config: ExperimentConfig, build: Builder, sources: Mapping[str, TaskData]) -> Evaluator:
    """Return an evaluator that learns each source from a few of its training rows and asks its validation split.

    Raises:
        DataError: If a source has too few rows or classes for an episode.
    """
    train, kinds = {name: data.splits["train"] for name, data in sources.items()}, {n: d.kind for n, d in sources.items()}
    pools_of(train, kinds, config.episodes, tell=False)  # the episodes of training tell
    rng = np.random.default_rng(seed_of(config.seed, "validation episodes"))
    shots = config.episodes.shots if isinstance(config.episodes.shots, int) else config.episodes.shots[1]
    inner = TransferEvaluator(
        [episodes_of_validation(data, shots, rng) for data in sources.values()], config.batch.evaluation_size
    )

    def look(model: MultiTaskModel, strategy: Strategy) -> Any:
        own = practised(Choice(name=PRACTISED), strategy, config, config.episodes, build)
        return inner(model.encoder, lambda kind: own)

    return look


def _candidates(choice: Choice, tune: Mapping[str, Sequence[Any]]) -> Iterator[Choice]:
    own = {key.partition(".")[2]: values for key, values in tune.items() if key.partition(".")[0] == choice.name}
    for values in product(*own.values()):
        yield Choice.model_validate({**choice.model_dump(), **dict(zip(own, values, strict=True))})
