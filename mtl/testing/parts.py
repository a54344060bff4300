"""Checks of samplers, weightings, aggregations and adaptations: each asked for what the engine will ask of it."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mtl.components import Builder
from mtl.config import Choice
from mtl.data.episodes import EpisodeRows
from mtl.errors import MTLError
from mtl.model.state import load_state, save_state
from mtl.plugins import Plugins
from mtl.testing.contract import Broken, Checks, Unsaid
from mtl.testing.strategies import Bench
from mtl.training.aggregation import Aggregation, Combined
from mtl.training.sampler import Sampler
from mtl.training.weighting import TaskLoss, Weighting
from mtl.transfer.adaptation import Adaptation
from mtl.transfer.space import Space

_SIZES = ({"large": 10_000, "middle": 300, "small": 5}, {"alone": 40})
_TASKS = ("first", "second", "third")
_PARAMETERS, _STEPS, _CLOSE = 60, 3, 1e-4


def checks_of_sampler(name: str, plugins: Plugins) -> Checks:
    """Return the checks of a sampler."""

    def make() -> Sampler:
        sampler: Sampler = Builder(plugins)("sampler", Choice(name=name))
        return sampler

    make()
    return [
        ("gives every task a share", lambda: _shares(make())),
        ("says the same when it is asked again", lambda: _again(make)),
    ]


def _shares(sampler: Sampler) -> None:
    for sizes in _SIZES:
        for progress in (0.0, 0.5, 1.0):
            shares = sampler.shares(dict(sizes), progress)
            if set(shares) != set(sizes):
                raise Broken(f"Of the tasks {list(sizes)} it gives shares to {list(shares)}. Return one for each.")
            if not all(math.isfinite(share) and share >= 0 for share in shares.values()) or not any(shares.values()):
                raise Broken(f"At progress {progress:g} they are {shares}. Return numbers from 0 up, of which one is not 0.")


def _again(make: Callable[[], Sampler]) -> None:
    first, again = make().shares(dict(_SIZES[0]), 0.5), make().shares(dict(_SIZES[0]), 0.5)
    if first != again:
        raise Broken(f"The shares are {first} and then {again}. Draw nothing: the engine draws by the shares.")


def checks_of_weighting(name: str, plugins: Plugins) -> Checks:
    """Return the checks of a weighting."""

    def make() -> Weighting:
        weighting: Weighting = Builder(plugins)("weighting", Choice(name=name))
        weighting.setup([TaskLoss(task, 1.0, 1.0) for task in _TASKS])
        return weighting

    make()
    return [
        ("weighs the loss of every task", lambda: _weighs(make())),
        ("is linear in the loss", lambda: _linear(make())),
        ("tells the weight of every task", lambda: _tells(make())),
        ("its state survives saving and loading", lambda: _survives(make, _weighed)),
    ]


def _weigh(weighting: Weighting, task: str, value: float) -> tuple[Tensor, float]:
    """Return a weighted loss and its derivative by the loss."""
    loss = torch.tensor(value, requires_grad=True)
    weighed = weighting.weigh(task, loss)
    if weighed.shape != () or not torch.isfinite(weighed):
        raise Broken(f"A loss of {value:g} becomes {weighed.detach().tolist()}; one finite number is needed.")
    if not weighed.requires_grad:
        raise Broken("What comes out has no gradient. Multiply the loss as it is given; do not detach it.")
    (slope,) = torch.autograd.grad(weighed, loss)
    return weighed, float(slope)


def _weighs(weighting: Weighting) -> None:
    weighting.begin_step()
    for task in _TASKS:
        _, slope = _weigh(weighting, task, 1.0)
        if not slope >= 0:
            raise Broken(f"The loss of a task counts {slope:.4g} times: with less than 0 it would be made larger.")


def _linear(weighting: Weighting) -> None:
    weighting.begin_step()
    for task in _TASKS:
        _, one = _weigh(weighting, task, 1.0)
        _, two = _weigh(weighting, task, 2.0)
        if abs(one - two) > _CLOSE * max(1.0, abs(one)):
            raise Broken(
                f"A loss of 1 counts {one:.4g} times and one of 2 {two:.4g} times. Weigh by what was before this step: the rows "
                "of a task may be spread over several batches."
            )


def _tells(weighting: Weighting) -> None:
    _weighed(weighting)
    weights = weighting.weights()
    if set(weights) != set(_TASKS) or not all(map(math.isfinite, weights.values())):
        raise Broken(f"weights() gives {weights} for the tasks {list(_TASKS)}. Return a finite number for each.")


def _weighed(weighting: Weighting) -> list[float]:
    """Make a few steps and return what comes out."""
    found = []
    for step in range(_STEPS):
        weighting.begin_step()
        losses = {task: torch.tensor(1.0 + place / (step + 1)) for place, task in enumerate(_TASKS)}
        found += [float(weighting.weigh(task, loss).detach()) for task, loss in losses.items()]
        weighting.end_step(losses, (step + 1) / _STEPS)
    return found


def checks_of_aggregation(name: str, plugins: Plugins) -> Checks:
    """Return the checks of an aggregation."""

    def make(tasks: Sequence[str] = _TASKS) -> Aggregation:
        aggregation: Aggregation = Builder(plugins)("aggregation", Choice(name=name))
        aggregation.setup(tasks)
        return aggregation

    make()
    return [
        ("makes one gradient", lambda: _one(make())),
        ("works in a step that has rows of one task", lambda: _single(make)),
        ("tells the weights that it has used", lambda: _used(make())),
        ("leaves the tasks' gradients as they are", lambda: _untouched(make())),
        ("its state survives saving and loading", lambda: _survives(make, _combined)),
    ]


def _jacobian(step: int = 0, tasks: int = len(_TASKS)) -> Tensor:
    return torch.randn(tasks, _PARAMETERS, generator=torch.Generator().manual_seed(step))


def _combine(aggregation: Aggregation, jacobian: Tensor) -> Combined:
    losses = 1 + torch.arange(len(jacobian)) / 2
    return aggregation.combine(jacobian, losses, jacobian @ jacobian.T)


def _one(aggregation: Aggregation, tasks: int = len(_TASKS)) -> None:
    gradient = _combine(aggregation, _jacobian(tasks=tasks)).gradient
    if gradient.shape != (_PARAMETERS,) or not torch.isfinite(gradient).all():
        raise Broken(f"Of {tasks} x {_PARAMETERS} numbers it makes {list(gradient.shape)}; {_PARAMETERS} finite ones are needed.")


def _single(make: Callable[..., Aggregation]) -> None:
    if make().every_task:
        raise Unsaid("It says that it needs every task in every step (every_task).")
    _one(make(_TASKS[:1]), 1)


def _used(aggregation: Aggregation) -> None:
    if not aggregation.weighs:
        raise Unsaid("It says that it has none (weighs).")
    jacobian = _jacobian()
    combined = _combine(aggregation, jacobian.clone())
    if combined.weights is None or combined.weights.shape != (len(_TASKS),):
        raise Broken("combine() tells none. Give weights to Combined, or set weighs = False.")
    if not torch.allclose(combined.weights @ jacobian, combined.gradient, atol=_CLOSE, rtol=_CLOSE):
        raise Broken("The gradients times the weights are not the gradient that comes out. Tell those it was made with.")


def _untouched(aggregation: Aggregation) -> None:
    jacobian = _jacobian()
    _combine(aggregation, jacobian)
    if not torch.equal(jacobian, _jacobian()):
        raise Broken("combine() changes the gradients in place. Make new ones: they are shown in the log after it.")


def _combined(aggregation: Aggregation) -> list[float]:
    """Make a few steps and return what comes out."""
    found = []
    for step in range(_STEPS):
        found += _combine(aggregation, _jacobian(step)).gradient.tolist()
        if aggregation.looks_back():
            aggregation.look_back(torch.full((len(_TASKS),), 0.9))
    return found


def _survives(make: Callable[[], Any], run: Callable[[Any], list[float]]) -> None:
    """Check that what goes on from a saved state does as what was never stopped."""
    torch.manual_seed(0)
    ours = make()
    run(ours)
    with tempfile.TemporaryDirectory(prefix="mtl-check-") as place:
        path = Path(place) / "state.safetensors"
        save_state(path, ours.state_dict())
        theirs = make()
        theirs.load_state_dict(load_state(path))
    torch.manual_seed(1)
    kept = run(ours)
    torch.manual_seed(1)
    loaded = run(theirs)
    if not torch.allclose(torch.tensor(kept), torch.tensor(loaded), atol=_CLOSE, equal_nan=True):
        raise Broken("After loading, it goes on in another way. Let state_dict() give all that later steps depend on.")


def checks_of_adaptation(name: str, plugins: Plugins) -> Checks:
    """Return the checks of an adaptation."""
    bench = Bench("none", plugins)

    def make() -> Adaptation:
        adaptation: Adaptation = bench.build("adaptation", Choice(name=name))
        return adaptation

    make()
    return [
        ("learns an episode", lambda: _learns(bench, make())),
        ("is deterministic under a seed", lambda: _repeats(bench, make)),
        ("does not look at the queries", lambda: _alone(bench, make)),
        ("leaves the encoder as it is", lambda: _still(bench, make())),
    ]


def _episode(bench: Bench, queries: int = 6) -> tuple[Space, EpisodeRows]:
    """Return a target with an episode of two ways, three shots, and queries of other rows."""
    target = bench.data["topic"]
    pool = target.splits["train"]
    answers = pool.columns["label"]
    support = [row for way in (0, 1) for row in [row for row in range(len(pool)) if answers[row] == way][:3]]
    rest = [row for row in range(len(pool)) if row not in support]
    return Space(bench.encoder(), target, pool), EpisodeRows("topic", (0, 1), tuple(support), tuple(rest[:queries]))


def _answered(adaptation: Adaptation, space: Space, episode: EpisodeRows) -> Tensor:
    try:
        adaptation.check_encoder(space.encoder)
    except MTLError as error:
        raise Unsaid(f"It cannot work with the encoder of these checks: {error}") from error
    torch.manual_seed(0)
    return adaptation.adapt(space, episode)(episode.query).detach()


def _learns(bench: Bench, adaptation: Adaptation) -> None:
    space, episode = _episode(bench)
    outputs = _answered(adaptation, space, episode)
    wanted = [len(episode.query), len(episode.classes)]
    if list(outputs.shape) != wanted or not torch.isfinite(outputs).all():
        raise Broken(f"Its predictor gives outputs of shape {list(outputs.shape)}; {wanted} finite ones are needed, a row each.")


def _repeats(bench: Bench, make: Callable[[], Adaptation]) -> None:
    first, again = (_answered(make(), *_episode(bench)) for _ in range(2))
    if not torch.equal(first, again):
        raise Broken("With one seed it answers in two ways. Draw from torch's generator alone.")


def _alone(bench: Bench, make: Callable[[], Adaptation]) -> None:
    if make().transductive:
        raise Unsaid("It says that it answers the queries of an episode together (transductive).")
    many, few = (_answered(make(), *_episode(bench, queries)) for queries in (6, 2))
    if not torch.allclose(many[:2], few, atol=_CLOSE):
        raise Broken("A query is answered otherwise when others are asked with it. Set transductive = True, if that is meant.")


def _still(bench: Bench, adaptation: Adaptation) -> None:
    space, episode = _episode(bench)
    before = {name: parameter.clone() for name, parameter in space.encoder.named_parameters()}
    _answered(adaptation, space, episode)
    for name, parameter in space.encoder.named_parameters():
        if not torch.equal(parameter, before[name]):
            raise Broken(f"It changes {name!r}, from which the next episode starts. Move copies: see LinearPredictor.")
