"""Plugins that each break the contract in one way."""

from __future__ import annotations

import contextlib
import random
import socket
from dataclasses import dataclass

import torch
from torch import nn

import mtl
from mtl.metrics import CLASSIFICATION, Metric
from mtl.model.heads import PooledHead
from mtl_plugins.joint import Joint
from mtl_plugins.prototype import Prototype
from mtl_tasks.classification import Classification


class SumKind(Classification):
    """Its loss is a sum over rows."""

    def loss(self, outputs, batch):
        return nn.functional.cross_entropy(outputs, batch["label"], reduction="sum")


class NaNKind(Classification):
    """Its loss takes the logarithm of 0."""

    def loss(self, outputs, batch):
        return super().loss(outputs, batch) * torch.log(torch.tensor(0.0)) * 0


class DetachedHead(PooledHead):
    def features(self, encoded, columns, *, unit=False):
        return encoded.pooled.detach()


class DetachedKind(Classification):
    """Its head does not train the encoder."""

    def head(self, hidden):
        return DetachedHead(hidden, len(self.labels))


class SpareHead(PooledHead):
    def __init__(self, hidden, outputs):
        super().__init__(hidden, outputs)
        self.spare = nn.Linear(hidden, hidden)


class SpareKind(Classification):
    """Its head has a layer that it does not use."""

    def head(self, hidden):
        return SpareHead(hidden, len(self.labels))


class ForgetfulKind(Classification):
    """Its state leaves the order of the labels out."""

    @property
    def state(self):
        return {"labels": sorted(self.labels, reverse=True), "majority": self._majority}


class ShiftedKind(Classification):
    """Its answers are the label after the right one."""

    def decode(self, outputs, batch):
        return [self.labels[(number + 1) % len(self.labels)] for number in outputs.argmax(-1).tolist()]


class UpsideDownKind(Classification):
    """Its metric says that lower is better."""

    metrics = (Metric("hits", CLASSIFICATION[0].compute, higher_is_better=False, best=1.0), *CLASSIFICATION[1:])


class UnstableKind(Classification):
    """Its labels come in the order in which they are found."""

    def fit(self, rows):
        super().fit(rows)
        self._labels = tuple(dict.fromkeys(rows["label"]))


class RandomKind(Classification):
    """Its targets are noisy, by a generator that no seed reaches."""

    def targets(self, rows, tokenized):
        columns = super().targets(rows, tokenized)
        return {**columns, "noise": columns["label"] + random.SystemRandom().random()}


class SqueezedKind(Classification):
    """It squeezes a batch of one row away."""

    def decode(self, outputs, batch):
        answers = outputs.squeeze().argmax(-1).tolist()
        return super().decode(outputs, batch) if isinstance(answers, list) else []


class OnlineKind(Classification):
    """It looks something up."""

    def fit(self, rows):
        super().fit(rows)
        with contextlib.suppress(OSError):
            socket.create_connection(("example.org", 80), timeout=1)


class LossyKind(Classification):
    """It compares with labels that are always the same, so that nothing is learned."""

    def loss(self, outputs, batch):
        return (outputs * 0).sum() + nn.functional.softplus(outputs.mean() * 0)


class SampleLess(Classification):
    """It has no rows to be checked with."""

    @classmethod
    def sample(cls):
        return {}


@dataclass
class Zeroing(Joint):
    """It fills every gradient, also of heads without rows."""

    def fill_gradients(self, model, draw):
        report = super().fill_gradients(model, draw)
        for parameter in model.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return report


@dataclass
class Ascending(Joint):
    """Its gradients point upwards."""

    def fill_gradients(self, model, draw):
        report = super().fill_gradients(model, draw)
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.neg_()
        return report


@dataclass
class Silent(Joint):
    """It reports nothing."""

    def fill_gradients(self, model, draw):
        super().fill_gradients(model, draw)
        return mtl.training.strategy.StepReport()


class Forgotten(mtl.Sampler):
    """It gives the last task no share."""

    def shares(self, sizes, progress):
        return dict.fromkeys([*sizes][:-1] or sizes, 1.0)


class Dicing(mtl.Sampler):
    """It draws its shares."""

    def shares(self, sizes, progress):
        return {name: float(torch.rand(())) for name in sizes}


class Squaring(mtl.Weighting):
    """It is not linear."""

    def weigh(self, task, loss):
        return loss**2

    def weights(self):
        return dict.fromkeys(self.tasks, 1.0)


class Drifting(mtl.Weighting):
    """It loses what it has learned."""

    def setup(self, tasks):
        super().setup(tasks)
        self.factor = 1.0

    def weigh(self, task, loss):
        return self.factor * loss

    def weights(self):
        return dict.fromkeys(self.tasks, self.factor)

    def end_step(self, losses, progress):
        self.factor *= 0.9


class Boasting(mtl.Aggregation):
    """It tells other weights than it has used."""

    def combine(self, jacobian, losses, gramian):
        return mtl.Combined(jacobian.sum(0), jacobian.new_full((len(jacobian),), 0.5))


class Spoiling(mtl.Aggregation):
    """It works in place."""

    weighs = False

    def combine(self, jacobian, losses, gramian):
        return mtl.Combined(jacobian.mul_(2).sum(0))


class Peeking(Prototype):
    """It moves outputs by the other queries."""

    def adapt(self, space, episode):
        answer = super().adapt(space, episode)
        return lambda rows: answer(rows) - answer(episode.query).mean(0)


class Moving(Prototype):
    """It moves the encoder itself."""

    def adapt(self, space, episode):
        with torch.no_grad():
            next(space.encoder.parameters()).add_(0.1)
        return super().adapt(space, episode)


@mtl.hookimpl
def mtl_register_samplers(register):
    register("Forgotten", Forgotten)
    register("Dicing", Dicing)


@mtl.hookimpl
def mtl_register_weightings(register):
    register("Squaring", Squaring)
    register("Drifting", Drifting)


@mtl.hookimpl
def mtl_register_aggregations(register):
    register("Boasting", Boasting)
    register("Spoiling", Spoiling)


@mtl.hookimpl
def mtl_register_adaptations(register):
    register("Peeking", Peeking)
    register("Moving", Moving)


@mtl.hookimpl
def mtl_register_kinds(register):
    for name, kind in list(globals().items()):
        if isinstance(kind, type) and issubclass(kind, Classification) and kind is not Classification:
            register(name, kind)


@mtl.hookimpl
def mtl_register_strategies(register):
    for kind in (Zeroing, Ascending, Silent):
        register(kind.__name__, kind)
