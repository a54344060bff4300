"""Checks of kinds and of tasks: on a few rows, with a tiny encoder."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mtl.config import EncoderConfig
from mtl.data.batches import Batch, collate
from mtl.data.dropping import featurize_splits
from mtl.data.features import Features, featurize
from mtl.data.rows import Rows
from mtl.data.sources import load_splits
from mtl.kind import TaskKind
from mtl.metrics import Outcome
from mtl.model.bundle import Bundle, load_bundle
from mtl.model.encoder import load_encoder
from mtl.model.inference import TaskData, predict_split
from mtl.model.multitask import MultiTaskModel
from mtl.plugins import Plugins
from mtl.task import Task
from mtl.testing.contract import Broken, Checks, Unsaid
from mtl.testing.encoder import tiny_encoder, words_of

_ROWS, _STEPS, _RATE = 8, 300, 5e-3
_MAX_LENGTH = 256
_CLOSE = 1e-4
_LEARNED = 0.25  # of the first loss: then most answers should be right
_ENOUGH = 0.025  # of it: then there is nothing more to learn
_FALLEN = 0.8


class Bench:
    """A kind with a few rows of a task, a tiny encoder and a head.

    Args:
        task: The task.
        plugins: That bring its kind.
    """

    def __init__(self, task: Task, plugins: Plugins) -> None:
        self.task, self.plugins = task, plugins
        self.place = tempfile.TemporaryDirectory(prefix="mtl-check-")
        self.folder = Path(self.place.name)

    def make(self) -> TaskKind:
        """Return a kind of the task, not fitted."""
        kind: TaskKind = self.plugins.kinds.get(self.task.kind)(self.task, self.plugins.metrics_of(self.task.kind))
        kind.vocabulary = self.encoder().tokenizer.vocabulary
        return kind

    @cached_property
    def read(self) -> dict[str, Rows]:
        """All rows, by split."""
        roles = dict(self.plugins.kinds.get(self.task.kind).roles)
        return {str(split): rows for split, rows in load_splits(self.task, roles, Path.cwd()).items()}

    @cached_property
    def train(self) -> Rows:
        """The training rows that can serve; the others are an error, or left out if the task says so."""
        splits, _ = featurize_splits(self.make(), self.read, self.encoder().tokenizer)
        return splits["train"].rows

    @cached_property
    def rows(self) -> Rows:
        """A few rows from all over the training rows."""
        return _few(self.train)

    @cached_property
    def _config(self) -> EncoderConfig:
        few = [list(values) for values in _few(self.read["train"]).columns.values()]
        tiny_encoder(self.folder / "encoder", words_of(few))
        return EncoderConfig(name=str(self.folder / "encoder"), max_length=_MAX_LENGTH)

    def encoder(self) -> Any:
        """Return a fresh copy of the tiny encoder."""
        return load_encoder(self._config, self._config.name)

    @cached_property
    def kind(self) -> TaskKind:
        """The kind, fitted."""
        return self.fitted(self.train)

    def fitted(self, rows: Rows) -> TaskKind:
        """Return a kind fitted on ``rows``."""
        kind = self.make()
        kind.fit(rows)
        return kind

    @cached_property
    def features(self) -> Features:
        """The few rows as features."""
        return featurize(self.kind, self.rows, self.encoder().tokenizer)

    def model(self) -> MultiTaskModel:
        """Return a fresh model with the kind's head."""
        return MultiTaskModel(self.encoder(), {self.task.name: self.kind}, lambda name: 0)

    def batch(self, ids: Sequence[int] | None = None) -> Batch:
        """Return rows as a batch, all by default."""
        name = self.task.name
        chosen = range(len(self.features)) if ids is None else ids
        return collate({name: chosen}, {name: self.features}, {name: self.kind})

    def loss(self, model: MultiTaskModel, batch: Batch) -> torch.Tensor:
        """Return the loss of a batch."""
        return model.loss(self.task.name, model(batch)[self.task.name], batch)

    @cached_property
    def trained(self) -> tuple[MultiTaskModel, float, float]:
        """A model that has learned the few rows by heart, with its first and its last loss."""
        torch.manual_seed(0)
        model, batch = self.model().eval(), self.batch()
        with torch.no_grad():
            first = last = float(self.loss(model, batch))
        optimizer = torch.optim.Adam(model.parameters(), lr=_RATE)
        for step in range(_STEPS):
            model.train()
            optimizer.zero_grad()
            torch.autograd.backward(self.loss(model, batch))
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if step % 10 == 9:
                with torch.no_grad():
                    last = float(self.loss(model.eval(), batch))
                if not math.isfinite(last) or last < _ENOUGH * first:
                    break
        return model.eval(), first, last

    def outcome(self, model: MultiTaskModel) -> Outcome:
        """Return the outcome of a model's answers on the few rows."""
        data = TaskData(self.task.name, self.kind, {"train": self.features})
        answers, scores, loss = predict_split(model, data, "train", size=_ROWS)
        made = self.kind.outcome(self.features, answers, scores)
        return Outcome(made.gold, made.predicted, made.scores, made.labels, loss)


def _few(rows: Rows) -> Rows:
    places = np.linspace(0, len(rows) - 1, min(_ROWS, len(rows))).astype(int)
    return rows.take(sorted(set(places.tolist())))


def checks_of_kind(name: str, plugins: Plugins) -> Checks:
    """Return the checks of a kind, on the rows of its sample."""
    cls = plugins.kinds.get(name)
    keys = cls.sample()
    if not keys:
        return [("has rows to be checked with", _no_sample)]
    data = {"train": keys["data"], "validation": keys["data"], "test": keys["data"]}
    return checks_of(Bench(Task(**{**keys, "name": "sample", "kind": name, "data": data}), plugins))


def checks_of_task(name: str, plugins: Plugins) -> Checks:
    """Return the checks of a task, on its own rows."""
    return checks_of(Bench(plugins.tasks.get(name), plugins))


def _no_sample() -> None:
    raise Broken("Give the kind a classmethod sample() that returns eight rows: {'data': [...]}. Or check a task of it.")


def checks_of(bench: Bench) -> Checks:
    """Return the checks of a kind with rows."""
    return [
        ("reads its rows", lambda: _reads(bench)),
        ("labels are stable", lambda: _labels(bench)),
        ("is deterministic under a seed", lambda: _deterministic(bench)),
        ("the loss is finite", lambda: _finite(bench)),
        ("the loss is a mean per predicted unit", lambda: _mean(bench)),
        ("works on a batch of one row", lambda: _one_row(bench)),
        ("the gradient reaches head and encoder", lambda: _gradient(bench)),
        ("the loss falls when a few rows are learned by heart", lambda: _falls(bench)),
        ("decoding inverts encoding", lambda: _inverts(bench)),
        ("metrics know their direction", lambda: _directions(bench)),
        ("predictions survive saving and loading", lambda: _survives(bench)),
    ]


def _reads(bench: Bench) -> None:
    bench.batch()
    if len(bench.features) != len(bench.rows):
        raise Broken(f"{len(bench.rows)} rows give {len(bench.features)} features. requests() must keep every row in its place.")
    _ = bench.kind.primary_metric


def _labels(bench: Bench) -> None:
    backwards = bench.fitted(bench.train.take(range(len(bench.train) - 1, -1, -1)))
    if bench.kind.labels != backwards.labels:
        raise Broken(
            f"They are {list(bench.kind.labels)[:5]} and, of the same rows in another order, {list(backwards.labels)[:5]}. Sort "
            "them in fit()."
        )


def _deterministic(bench: Bench) -> None:
    again = featurize(bench.kind, bench.rows, bench.encoder().tokenizer)
    for name, column in bench.features.columns.items():
        ours, theirs = (np.asarray(getattr(found, "values", found)) for found in (column, again.columns[name]))
        if not np.array_equal(ours, theirs, equal_nan=ours.dtype.kind == "f"):
            raise Broken(f"The column {name!r} is another each time it is made. Draw nothing in targets() and alignment().")
    losses = []
    for _ in range(2):
        torch.manual_seed(1)
        losses.append(float(bench.loss(bench.model().train(), bench.batch()).detach()))
    if losses[0] != losses[1] and not any(map(math.isnan, losses)):
        raise Broken(f"With one seed the loss is {losses[0]:.6g} and then {losses[1]:.6g}. Draw from torch's generator alone.")


def _finite(bench: Bench) -> None:
    loss = bench.loss(bench.model().eval(), bench.batch())
    if loss.shape != ():
        raise Broken(f"loss() returns a tensor of shape {list(loss.shape)}; one number is needed.")
    if not torch.isfinite(loss):
        raise Broken(f"It is {float(loss.detach())}. Look for a logarithm of 0 or a division by 0.")


@torch.no_grad()
def _mean(bench: Bench) -> None:
    if bench.kind.couples_rows:
        raise Unsaid("The kind says that its loss depends on which rows are together (couples_rows).")
    model, rows = bench.model().eval(), range(len(bench.features))
    alone = [bench.batch([row]) for row in rows]
    units = [batch.parts[bench.task.name].units for batch in alone]
    mean = sum(float(bench.loss(model, batch)) * count for batch, count in zip(alone, units, strict=True) if count) / sum(units)
    whole = float(bench.loss(model, bench.batch()))
    if abs(whole - mean) > _CLOSE * max(1.0, abs(mean)):
        raise Broken(
            f"The loss of {len(units)} rows with {sum(units)} units is {whole:.4g}; the mean over units is {mean:.4g}. Divide by "
            "what units() counts, so that no kind drowns another."
        )


@torch.no_grad()
def _one_row(bench: Bench) -> None:
    model, batch = bench.model().eval(), bench.batch([0])
    outputs, answers = model.answer(batch)[bench.task.name]
    if len(answers) != 1:
        raise Broken(f"decode() gives {len(answers)} answers for one row. Keep the first dimension, also where it is 1.")
    if model.loss(bench.task.name, outputs, batch).shape != ():
        raise Broken("loss() returns no single number for one row.")


def _gradient(bench: Bench) -> None:
    model = bench.model().train()
    torch.autograd.backward(bench.loss(model, bench.batch()))
    for name, parameter in model.head(bench.task.name).named_parameters():
        if parameter.grad is None:
            raise Broken(f"The head's {name!r} has none. Use it, or leave it out.")
    if not any(parameter.grad is not None and parameter.grad.any() for parameter in model.encoder.parameters()):
        raise Broken("The encoder has none. Do not detach what the head reads.")


def _falls(bench: Bench) -> None:
    _, first, last = bench.trained
    if not last < _FALLEN * first:
        raise Broken(
            f"It is {first:.4g} before and {last:.4g} after {_STEPS} steps on {len(bench.features)} rows. Does the loss "
            "compare with the targets, and does the head read the encoder?"
        )


def _inverts(bench: Bench) -> None:
    model, first, last = bench.trained
    if last > _LEARNED * first:
        raise Unsaid(f"The few rows were not learned by heart: the loss fell from {first:.4g} to {last:.4g} only.")
    metric = bench.kind.primary_metric
    value = metric(bench.outcome(model))
    trivial = metric(bench.kind.trivial_outcome(bench.features))
    if metric.skill(value, trivial) < 0.5:
        raise Broken(
            f"The loss says that the rows are learned ({first:.4g} to {last:.4g}), but {metric.name} is {value:.4g} (trivial "
            f"{trivial:.4g}, best {metric.best:g}). Does decode() turn outputs back as targets() made them?"
        )


def _directions(bench: Bench) -> None:
    model, first, last = bench.trained
    if last > _LEARNED * first:
        raise Unsaid(f"The few rows were not learned by heart: the loss fell from {first:.4g} to {last:.4g} only.")
    good = bench.outcome(model)
    with torch.no_grad():
        poor = bench.outcome(bench.model().eval())
    for metric in bench.kind.all_metrics.values():
        if metric.higher_is_better is None:
            continue
        learned, random = metric(good), metric(poor)
        if learned == random or math.isnan(learned) or math.isnan(random):
            continue
        if (learned > random) != metric.higher_is_better:
            raise Broken(
                f"{metric.name} is {learned:.4g} after learning and {random:.4g} before, but higher_is_better is "
                f"{metric.higher_is_better}."
            )
        if abs(learned - metric.best) > abs(random - metric.best):
            raise Broken(f"{metric.name} is {learned:.4g} after learning, further from best ({metric.best:g}) than {random:.4g}.")


def _survives(bench: Bench) -> None:
    model, _, _ = bench.trained
    json.dumps(bench.kind.state)
    origin = bench.plugins.kinds.origin(bench.task.kind)
    before = Bundle(model, bench._config, {bench.task.kind: origin})
    before.save(bench.folder / "bundle")
    after = load_bundle(bench.folder / "bundle", plugins=bench.plugins)
    read = [role for role in bench.rows.columns if role not in bench.kind.target_roles]
    rows = [{role: bench.rows[role][row] for role in read} for row in range(len(bench.rows))]
    if before.predict(rows) != after.predict(rows):
        raise Broken("They are others after loading. Let state give all that fit() learned, and load_state() take it back.")
