"""Strategies whose inner loop is gradient descent from a learned start: the family of MAML."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mtl.budget import Positive
from mtl.data.batches import Batch
from mtl.data.episodes import Episode
from mtl.episodic.learner import EpisodicStrategy, describe, make_readers
from mtl.errors import ConfigError, TrainingError
from mtl.meta.closed_form import Linear
from mtl.meta.inner import RATE, Descent, Loss, Order, Parameters, Trace, unroll
from mtl.meta.reader import Reader, Trunk
from mtl.meta.scope import Adapted, scope_of
from mtl.training.strategy import Draw, StepReport

if TYPE_CHECKING:
    from mtl.config import EpisodesConfig, ExperimentConfig
    from mtl.model.multitask import MultiTaskModel
    from mtl.training.sampler import Sampler
    from mtl.transfer.adaptation import Adaptation

_LOG = logging.getLogger(__name__)
#: Gives the outputs of a batch's rows, ``[rows, ..., outputs of the episode]``.
Answerer = Callable[[Batch], Tensor]
Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
WEIGHT, BIAS, STATES, _START = "head.weight", "head.bias", "states", "start:"
#: An inner loss that has grown by this factor has left the region where gradient descent means anything.
_DIVERGED = 100.0


@dataclass
class GradientBased(EpisodicStrategy):
    """Gradient descent on the support, from a start that the outer loop learns.

    The head of an episode is a linear layer on features of length 1, made for the episode's classes.

    Args:
        steps: Inner steps K.
        rate: Inner learning rate α, or where learned rates start.
        head_rate: The same of the head. Default: ``rate``.
        adapt: What the inner loop moves beside the head: ``head`` (nothing), the last N layers,
            ``norms-and-biases``, ``adapter`` or ``all``.
        embeddings: Whether ``all`` has the embeddings in it.
        layer_norms: Whether LayerNorms of adapted layers are moved too.
        head: Where an episode's head starts: at ``zeros``, or at one ``learned`` vector that all classes share, so
            that their number may change (Ye & Chao 2022, UNICORN-MAML, arXiv:2106.16245). There is one for each kind of
            task and size of features; where none was trained the head starts at zeros.
        scale: What features are multiplied by before the head.
        rates: ``fixed``; or learned: ``layer`` has a scalar for each layer, ``layer-step`` one for each layer and step
            (Antoniou et al. 2019, arXiv:1810.09502), ``element`` one for each number (Li et al. 2017, arXiv:1707.09835).
        memory: ``store`` keeps the graph of all steps, ``recompute`` makes each step again on the way back.
        first_order_until: Share of the budget for which first-order gradients are taken (MAML++).
        multi_step: Share of the budget in which the queries are answered after every step, the weight going over to
            the last (MAML++).
        dropout: Whether dropout acts in the inner loop.
        clip: Largest norm of the inner gradient; ``null`` for no clipping.
    """

    steps: Count = 5
    rate: Positive = 0.02
    head_rate: Positive | None = None
    adapt: Adapted = "all"
    embeddings: bool = False
    layer_norms: bool = False
    head: Literal["zeros", "learned"] = "zeros"
    scale: Positive = 10.0
    rates: Literal["fixed", "layer", "layer-step", "element"] = "fixed"
    memory: Literal["store", "recompute"] = "recompute"
    first_order_until: Fraction = 0.0
    multi_step: Fraction = 0.0
    dropout: bool = False
    clip: Positive | None = 10.0

    exact: ClassVar[bool] = True
    of_one_encoder: ClassVar[bool] = True
    #: Whether the head starts from the support's features, so that a gradient flows through it into the trunk.
    starts_at_features: ClassVar[bool] = False

    def check(self, config: ExperimentConfig, sampler: Sampler) -> None:
        super().check(config, sampler)
        if self.first_order_until and not self.exact:
            raise ConfigError(
                f"strategy.first_order_until: {config.strategy.name!r} takes no second derivatives at any time, so it would "
                "change nothing. Leave it out, or take maml."
            )

    @property
    def second_order(self) -> bool:
        return self.exact and self.adapt != "head"

    @property
    def derivatives(self) -> str:
        """Which derivatives are taken, for the log."""
        return f"second derivatives, {self.memory}" if self.exact else "first derivatives only"

    def prepare(self, model: MultiTaskModel) -> None:
        self._progress = 0.0
        scope = scope_of(model.encoder, self.adapt, embeddings=self.embeddings, layer_norms=self.layer_norms)
        self._scope, self.trunk = scope, Trunk(model.encoder, scope.depth)
        self._readers = make_readers(model, self.trunk)
        self._learned = nn.ParameterDict()
        below = {id(parameter) for parameter in self.trunk.parameters}
        named = {name: p for name, p in model.encoder.named_parameters() if id(p) not in below}
        frozen = [name for name in scope.names if not named[name].requires_grad]
        if frozen:
            raise ConfigError(
                f"strategy: the inner loop adapts {len(frozen)} parameters that encoder.freeze keeps from being trained, "
                f"{frozen[0]!r} first. Freeze fewer layers, or set adapt to the layers that are trained."
            )
        self.adapted = {name: p for name, p in named.items() if name in scope.names}
        self._beside = {name: p for name, p in named.items() if name not in scope.names and p.requires_grad}
        device = next(model.encoder.parameters()).device
        if self.head == "learned":
            for reader in self._readers.values():
                self._learned[_start_of(reader)] = nn.Parameter(torch.zeros(reader.size + 1, device=device))
        self.descent = Descent(self.rate, self.clip, dict.fromkeys((WEIGHT, BIAS), self.head_rate or self.rate))
        for name, (shape, rate) in self._starts_of_rates().items():
            self._learned[RATE + name] = nn.Parameter(torch.full(shape, rate, device=device))
        kernels = ", attention by math kernels for them" if self.second_order else ""
        adapted = len(scope.names), self._layers(model)
        _LOG.info("inner loop: %d tensors of %d layers adapted; %s%s", *adapted, self.derivatives, kernels)

    def _layers(self, model: MultiTaskModel) -> int:
        return len(model.encoder.layers()) - max(self._scope.depth, 0)

    def _starts_of_rates(self) -> dict[str, tuple[tuple[int, ...], float]]:
        """Return shape and first value of every learned rate."""
        names, rate_of = (*self.adapted, WEIGHT, BIAS), self.descent.rate_of
        if self.rates == "fixed":
            return {}
        if self.rates == "element":  # a scalar for the head, as the number of classes may change
            shapes = {name: (1, *self.adapted[name].shape) if name in self.adapted else (1,) for name in names}
            return {module_key(name): (shape, rate_of(name)) for name, shape in shapes.items()}
        steps = self.steps if self.rates == "layer-step" else 1
        return {module_key(_layer_of(name)): ((steps,), rate_of(name)) for name in names}

    def rule_at(self, step: int) -> Parameters:
        """Return what the update rule of a step has learned; see :class:`mtl.meta.inner.Descent`."""
        if self.rates == "fixed":
            return {}
        key = module_key if self.rates == "element" else lambda name: module_key(_layer_of(name))
        found = {name: self._learned[RATE + key(name)] for name in (*self.adapted, WEIGHT, BIAS)}
        return {RATE + name: rate[min(step, len(rate) - 1)] for name, rate in found.items()}

    def start(self, reader: Reader, episode: Episode, states: Tensor | None = None) -> Linear:
        """Return the head that the inner loop starts from.

        Args:
            reader: Reads the episode's task.
            episode: The episode.
            states: What the trunk gave for its support.
        """
        outputs = len(episode.outputs)
        like = next(reader.encoder.parameters())
        own = self._learned.get(_start_of(reader))
        if own is not None:
            return Linear(own[:-1].expand(outputs, -1), own[-1:].expand(outputs))
        return Linear(like.new_zeros(outputs, reader.size), like.new_zeros(outputs))

    @property
    def order(self) -> Order:
        """How the gradient through the inner loop is taken now."""
        if not self.exact or self._progress < self.first_order_until:
            return "first"
        return self.memory

    def below(self, reader: Reader, episode: Episode, *, differentiable: bool) -> Tensor | None:
        """Return what the trunk gives for an episode's support; see :class:`mtl.meta.reader.Trunk`."""
        with self._mode(reader):
            return reader.trunk(episode.support, differentiable=differentiable)

    def unroll(
        self,
        reader: Reader,
        episode: Episode,
        order: Order,
        steps: int | None = None,
        states: Tensor | None = None,
        trace: Trace | None = None,
    ) -> Iterator[Parameters]:
        """Yield what the inner loop has made of encoder and head after each step.

        Args:
            reader: Reads the episode's task.
            episode: The episode.
            order: How the gradient through the steps is taken.
            steps: How many. Default: those of the strategy.
            states: What :meth:`below` gave, where that is needed for something else too.
            trace: Is told the losses before every step. In training :meth:`query_loss` looks at where the last one leads.

        Raises:
            TrainingError: If the support loss is not finite, or grows without bound; names the episode.
        """
        if states is None:
            states = self.below(reader, episode, differentiable=order != "first" or self.starts_at_features)
        with self._mode(reader):
            head = self.start(reader, episode, states)
        # Features before a head of zeros have no gradient: the first step moves the head alone.
        moved_first = None if head.weight.requires_grad or bool(head.weight.any()) else (WEIGHT, BIAS)
        theta = {**self.adapted, WEIGHT: head.weight, BIAS: head.bias}
        for name in (WEIGHT, BIAS):
            if not theta[name].requires_grad:
                theta[name] = theta[name].detach().requires_grad_()
        fixed: Parameters = {} if states is None else {STATES: states}
        fixed |= self._beside
        trace = trace if trace is not None else Trace()
        for moved in unroll(
            self.support_loss(reader, episode),
            theta,
            lambda step: {**fixed, **self.rule_at(step)},
            self.descent,
            steps or self.steps,
            order,
            trace,
            moved_first,
        ):
            yield moved
        check_descent(trace, episode, reader, self)
        if not reader.encoder.training:  # an adaptation, which has no loss of queries
            self.check_end(reader, episode, moved, trace)

    def support_loss(self, reader: Reader, episode: Episode) -> Loss:
        """Return the support loss as a function of what is adapted and of what is not."""
        support = episode.support

        def loss(adapted: Parameters, shared: Parameters) -> Tensor:
            with self._mode(reader):
                own = {name: shared[name] for name in self._beside if name in shared}
                own |= {name: adapted[name] for name in self.adapted}
                features = reader.features(support, shared.get(STATES), own)
                outputs = torch.nn.functional.linear(self.scale * features, adapted[WEIGHT], adapted[BIAS])
                return reader.loss(outputs, support, episode.outputs)

        return loss

    @contextmanager
    def _mode(self, reader: Reader) -> Iterator[None]:
        """Switch dropout off inside the inner loop, unless it is wanted."""
        training = reader.encoder.training
        reader.encoder.train(training and self.dropout)
        try:
            yield
        finally:
            reader.encoder.train(training)

    def answerer(self, reader: Reader, theta: Parameters) -> Answerer:
        """Return what answers with the adapted parameters."""
        own = {name: theta[name] for name in self.adapted}

        def answer(batch: Batch) -> Tensor:
            features = reader.features(batch, reader.trunk(batch), own)
            return torch.nn.functional.linear(self.scale * features, theta[WEIGHT], theta[BIAS])

        return answer

    def query_loss(self, reader: Reader, episode: Episode, theta: Parameters, trace: Trace) -> Tensor:
        """Return the loss on an episode's queries, ``[]``.

        Args:
            reader: Reads the episode's task.
            episode: The episode.
            theta: What the inner loop has made of encoder and head.
            trace: What it went through.

        Raises:
            TrainingError: If the loss is out of all bounds and that on the support is so too; names the episode.
        """
        loss = reader.loss(self.answerer(reader, theta)(episode.query), episode.query, episode.outputs)
        if out_of_bounds(loss):
            self.check_end(reader, episode, theta, trace)
        return loss

    def check_end(self, reader: Reader, episode: Episode, theta: Parameters, trace: Trace) -> None:
        """Stop where the last step of an inner loop has led astray, by one more pass of the support.

        Raises:
            TrainingError: Naming the episode.
        """
        states = self.below(reader, episode, differentiable=False)
        with torch.no_grad():
            value = self.support_loss(reader, episode)(theta, {} if states is None else {STATES: states})
        check_descent(Trace([*trace.losses, value]), episode, reader, self)

    def fill_gradients(self, model: MultiTaskModel, draw: Draw) -> StepReport:
        # The sums over episodes are there from the first on, so that a step of one takes the memory of a step of many.
        for parameter in self.adapted.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return super().fill_gradients(model, draw)

    def episode_loss(self, reader: Reader, episode: Episode) -> Tensor:
        trace = Trace()
        thetas = self.unroll(reader, episode, self.order, trace=trace)
        if self._progress >= self.multi_step:
            *_, theta = thetas
            return self.query_loss(reader, episode, theta, trace)
        early = (1 - self._progress / self.multi_step) / self.steps
        losses = [self.query_loss(reader, episode, theta, trace) for theta in thetas]
        weights = [early] * (self.steps - 1) + [1 - early * (self.steps - 1)]
        return torch.stack([weight * loss for weight, loss in zip(weights, losses, strict=True)]).sum()

    def end_step(self, report: Any, progress: float) -> None:
        self._progress = progress

    def adaptation(self, episodes: EpisodesConfig) -> Adaptation:
        from mtl.episodic.inner_loop import InnerLoop

        return InnerLoop(self, episodes.names)

    def state_dict(self) -> dict[str, Any]:
        return {"progress": self._progress, **super().state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._progress = state["progress"]
        # Names of learned starts did not have the size once, in bundles that may still be read.
        sized = {f"{n}:{len(v) - 1}" if n.startswith(_START) and n.count(":") == 1 else n: v for n, v in state["learned"].items()}
        super().load_state_dict({**state, "learned": sized})


def with_gradient(parts: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
    """Return 0, ``[]``, whose derivative by each first tensor is the second: a gradient handed to ``backward()``."""
    if not parts:
        return torch.zeros(())
    linear = torch.stack([(tensor * gradient).sum() for tensor, gradient in parts.values()]).sum()
    return linear - linear.detach()


def refuse_the_way(strategy: GradientBased, name: str) -> None:
    """Refuse what means nothing where the way of the inner loop is not differentiated, but only where it ends is looked at.

    Raises:
        ConfigError: Naming the option.
    """
    if strategy.rates != "fixed":
        raise ConfigError(f"strategy {name!r}: rates cannot be learned here, as it does not differentiate the inner loop's way.")
    if strategy.multi_step:
        raise ConfigError(
            f"strategy {name!r}: multi_step has queries answered on the inner loop's way, and only its end counts here. Leave it "
            "out, or take maml or fomaml."
        )


def out_of_bounds(loss: Tensor) -> bool:
    """Tell whether a loss may be that of an inner loop gone astray: it is, if the support's is so too."""
    return not bool(loss.detach() <= _DIVERGED)  # so is what is not a number


def check_descent(trace: Trace, episode: Episode, reader: Reader, strategy: GradientBased) -> None:
    """Stop where an inner loop has gone astray.

    Raises:
        TrainingError: Naming the episode.
    """
    losses = torch.stack(trace.losses).tolist()
    grown = losses[-1] > _DIVERGED * max(losses[0], 1.0)
    if grown or not all(value == value and abs(value) != float("inf") for value in losses):
        shown = ", ".join(f"{value:.3g}" for value in losses)
        raise TrainingError(
            f"The inner loop of {describe(episode, reader.kind)} diverges: support loss {shown}. Lower strategy.rate "
            f"(now {strategy.rate:g}){_own_rate(strategy)} or strategy.clip. What was saved before is kept."
        )


def _own_rate(strategy: GradientBased) -> str:
    return "" if strategy.head_rate is None else f", strategy.head_rate (now {strategy.head_rate:g})"


def _start_of(reader: Reader) -> str:
    """Return the name of the learned start of heads like a reader's."""
    return f"{_START}{reader.kind.task.kind}:{reader.size}"


def _layer_of(name: str) -> str:
    """Return the layer that a parameter belongs to: what comes before the number, and the number."""
    parts = name.split(".")
    number = next((place for place, part in enumerate(parts) if part.isdigit()), None)
    return "head" if name in (WEIGHT, BIAS) else ".".join(parts[: number + 1]) if number is not None else "embeddings"


def module_key(name: str) -> str:
    """Return a parameter's name as one that a module may have."""
    return name.replace(".", "/")
