"""Adapting a bundle: a few rows of a new task, and it has a head for it."""

from __future__ import annotations

from pathlib import Path

import torch

from mtl.components import Builder
from mtl.config import Choice
from mtl.data.episodes import EpisodeRows
from mtl.data.features import featurize, name_features
from mtl.data.sources import load_file
from mtl.errors import ConfigError
from mtl.model.bundle import Bundle
from mtl.model.inference import TaskData
from mtl.model.multitask import MultiTaskModel
from mtl.plugins import Plugins
from mtl.task import Task
from mtl.training.strategy import Strategy
from mtl.transfer.adaptation import Adaptation, LinearPredictor
from mtl.transfer.overlap import also_trained_on
from mtl.transfer.space import Space
from mtl.transfer.stage import PRACTISED


def practised_by(bundle: Bundle, plugins: Plugins) -> Strategy | None:
    """Return the strategy that trained a bundle, with what it has learned; ``None`` if there is nothing to it."""
    if bundle.practice is None:
        return None
    strategy: Strategy = Builder(plugins)("strategy", bundle.practice.strategy)
    if strategy.trains_heads:
        return None
    strategy.prepare(bundle.model)
    strategy.load_state_dict(bundle.practice.state)
    return strategy


def adaptation_for(bundle: Bundle, choice: Choice | None, plugins: Plugins) -> Adaptation:
    """Make an adaptation for a bundle, with the options that meta-validation has chosen where none are given.

    Args:
        bundle: The bundle.
        choice: What is asked for. Default: what the bundle has practised, or nearest prototypes.
        plugins: Bring the adaptations.

    Raises:
        ConfigError: If ``inner-loop`` is asked for and the bundle has practised none.
    """
    if choice is None or choice.name == PRACTISED:
        strategy = practised_by(bundle, plugins)
        own = strategy.adaptation(bundle.practice.episodes) if strategy is not None and bundle.practice is not None else None
        if own is None and choice is None:
            return adaptation_for(bundle, Choice(name="prototype"), plugins)
        if own is None:
            raise ConfigError(
                "The bundle has no inner loop, as it was not trained in episodes. Take the adaptation prototype, ridge or full."
            )
        return own
    frozen = choice if bundle.practice is None else bundle.practice.frozen(choice)
    made: Adaptation = Builder(plugins)("adaptation", frozen)
    return made


def adapt(bundle: Bundle, task: Task, support: Path, choice: Choice | None, plugins: Plugins) -> Bundle:
    """Learn a task from a file of support rows, and return a bundle with a head for it.

    If the adaptation moves the encoder, the new bundle has this head alone, as the others would no longer fit.

    Args:
        bundle: Where to start; it is not changed.
        task: The new task; its ``data`` are not read.
        support: The rows to learn from.
        choice: The adaptation; see :func:`adaptation_for`.
        plugins: Bring kinds and adaptations.

    Raises:
        ConfigError: If the task cannot be learned in this way, or the bundle has a task of this name.
        DataError: If the rows cannot be read.
    """
    if task.name in bundle.tasks:
        raise ConfigError(f"The bundle has a task {task.name!r} already. Give the new one another --name.")
    encoder = bundle.model.encoder
    if encoder.per_task:
        raise ConfigError(
            f"The bundle was trained with encoder.adapter.per_task, and {task.name!r} has no adapters of its own. Take a bundle "
            "trained with per_task: false, or export one of its tasks first: mtl export BUNDLE --task NAME --output FOLDER"
        )
    if encoder.mixing:
        raise ConfigError(
            f"The bundle was trained with encoder.mix, and {task.name!r} has no weights of layers. Take a bundle trained without."
        )
    kind = plugins.kinds.get(task.kind)(task, plugins.metrics_of(task.kind))
    rows = load_file(task, str(support), dict(kind.roles), Path.cwd())
    kind.vocabulary = encoder.tokenizer.vocabulary
    kind.fit(rows)
    features = featurize(kind, rows, encoder.tokenizer)
    data = TaskData(task.name, kind, {"train": features}, name_features(kind, encoder.tokenizer))
    space = Space(encoder, data, features)
    classes = tuple(range(len(kind.class_names))) if kind.classes_of(features) is not None else ()
    episode = EpisodeRows(task.name, classes, tuple(range(len(features))), ())
    predictor = adaptation_for(bundle, choice, plugins).adapt(space, episode)
    if not isinstance(predictor, LinearPredictor):
        raise ConfigError(
            "This adaptation keeps its support rather than a head, so it cannot be written to a bundle. Take ridge."
        )
    moved = {name: value.clone() for name, value in predictor.parameters.items()}
    kinds = {task.name: kind} if moved else {**bundle.model.kinds, task.name: kind}
    with torch.no_grad():
        if moved:
            had_adapters = encoder.adapters is not None
            encoder = predictor.space.encoder.copy()
            for name, parameter in encoder.named_parameters():
                if name in moved:
                    parameter.copy_(moved[name])
            if not had_adapters:
                encoder.merge_adapters()
        model = MultiTaskModel(encoder, kinds, lambda name: 0).to(space.device)
        for name in () if moved else bundle.model.kinds:
            model.head(name).load_state_dict(bundle.model.head(name).state_dict())
            model.head(name).unit = bundle.model.head(name).unit
        head = model.head(task.name)
        head.linear.weight.copy_(predictor.head.weight)  # type: ignore[union-attr, operator]
        head.linear.bias.copy_(predictor.head.bias)  # type: ignore[union-attr, operator]
        head.unit = True  # type: ignore[assignment]
    model.eval()
    plugin = {task.kind: plugins.kinds.origin(task.kind)}
    trained = also_trained_on(bundle.trained, data) if moved and bundle.trained is not None else bundle.trained
    return Bundle(model, bundle.config, bundle.plugins | plugin, None if moved else bundle.practice, trained=trained)
