"""TaskKind: what a kind of task does. A new kind is one file with one subclass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import ValidationError

from mtl.errors import ConfigError, PluginError, did_you_mean, explain_validation
from mtl.metrics import Array, Metric, Outcome
from mtl.task import Frozen, Task

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mtl.data.features import Columns, Features, Tokenized
    from mtl.data.rows import Rows
    from mtl.data.vocabulary import Vocabulary
    from mtl.model.encoded import Encoded

#: What the tokenizer is to encode: a text, a pair of texts in one sequence, or a text split into words.
Request = str | tuple[str, str] | list[str]
#: Tensors of one task's rows in a batch, by column name.
Batch = Mapping[str, "Tensor"]


class NoOptions(Frozen):
    """Options of a kind that has none."""


class TaskKind(ABC):
    """One kind of task; an instance serves one task.

    The engine calls, in this order: :meth:`fit` on the training rows, :meth:`requests` and
    :meth:`targets` on every split, :meth:`head` once, then for each batch the head, :meth:`loss` while
    training and :meth:`answer` otherwise. A kind sees rows, tensors and answers, and the encoder's
    vocabulary if it predicts tokens; never files, the encoder itself or another task.

    Attributes:
        roles: The columns it reads, each with whether it must be there.
        target_roles: Those of them that are not needed to predict.
        metrics: What it can be measured by; the first is the default primary metric.
        Options: Its options, as a pydantic model.
        needs_words: Whether it asks where words are in the sequences.
        vocabulary: The encoder's tokens; there before :meth:`fit` is called.
        episodic: Whether it can be learned from a few examples. Its head is then a
            :class:`mtl.model.heads.LinearHead`, and it says below what an episode of it is.
        likelihood_factor: c in the likelihood −log p = c · loss / σ² + log σ: 1 for a softmax, ½ for a
            squared error (Kendall et al. 2018, arXiv:1705.07115, equations 5 and 10).
    """

    roles: ClassVar[Mapping[str, bool]]
    target_roles: ClassVar[frozenset[str]] = frozenset({"label"})
    metrics: ClassVar[tuple[Metric, ...]]
    Options: ClassVar[type[Frozen]] = NoOptions
    needs_words: ClassVar[bool] = False
    episodic: ClassVar[bool] = False
    likelihood_factor: ClassVar[float] = 1.0

    def __init__(self, task: Task, extra_metrics: Sequence[Metric] = ()) -> None:
        self.task = task
        self.vocabulary: Vocabulary
        self.all_metrics: dict[str, Metric] = {metric.name: metric for metric in self.metrics}
        for metric in extra_metrics:
            if metric.name in self.all_metrics:
                raise PluginError(f"A plugin registered the metric {metric.name!r}, which kind {task.kind!r} has. Rename it.")
            self.all_metrics[metric.name] = metric
        for role in task.columns:
            if role not in self.roles:
                hint = did_you_mean(role, self.roles) or "Write it as role: column."
                raise ConfigError(
                    f"Task {task.name!r}: kind {task.kind!r} has no column role {role!r}. {hint} It has: {', '.join(self.roles)}."
                )
        try:
            self.options: Any = self.Options.model_validate(task.options)
        except ValidationError as error:
            where = f"Task {task.name!r}, options of kind {task.kind!r}"
            raise explain_validation(error, where, self.Options.model_fields) from error

    @classmethod
    def sample(cls) -> dict[str, Any]:
        """Return the keys of a tiny :class:`mtl.Task` of this kind, with eight rows or more, for ``mtl check`` and ``mtl new``.

        ``{"data": [...]}``, and ``options`` or ``labels`` where the rows need them.
        """
        return {}

    @property
    def sequences(self) -> int:
        """How many requests a row has; 0 if rows differ in that, see :meth:`sequence_counts`."""
        return 1

    def sequence_counts(self, rows: Rows) -> Array:
        """Return how many requests each row has, ``[rows]``."""
        return np.full(len(rows), self.sequences, dtype=np.int64)

    @property
    def reads_embeddings(self) -> bool:
        """Whether its head reads the encoder's embeddings of tokens, as one that predicts tokens does."""
        return False

    @property
    def stride(self) -> int | None:
        """How many tokens the windows share into which long texts are parted; ``None`` to cut long texts off."""
        return None

    @property
    def calibrates(self) -> bool:
        """Whether :meth:`calibrate` is to be called after training."""
        return False

    @property
    def couples_rows(self) -> bool:
        """Whether a row's loss depends on its company in the batch, as with in-batch negatives."""
        return False

    def readable(self, columns: Collection[str]) -> bool:
        """Tell whether rows with these columns can be predicted."""
        return all(role in columns for role, must in self.roles.items() if must and role not in self.target_roles)

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names in the order of the head's outputs; empty for kinds without labels."""
        return ()

    @property
    def state(self) -> dict[str, Any]:
        """What :meth:`fit` learned, as JSON values; kept in the model bundle."""
        return {}

    @abstractmethod
    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what :attr:`state` gave."""

    @abstractmethod
    def fit(self, rows: Rows) -> None:
        """Learn label names, scales and the like from the training rows.

        Raises:
            DataError: If the rows cannot serve as training data for this kind.
        """

    @abstractmethod
    def requests(self, rows: Rows) -> list[Request]:
        """Say what is to be encoded: :meth:`sequence_counts` requests a row, in the order of the rows."""

    def alignment(self, tokenized: Tokenized) -> Columns:
        """Return columns that the head or :meth:`decode` needs beside the sequences, with or without targets."""
        return {}

    @abstractmethod
    def targets(self, rows: Rows, tokenized: Tokenized) -> Columns:
        """Return the columns that :meth:`loss` compares with.

        Raises:
            DataError: If a target is missing, of the wrong type or unknown; names file and row.
        """

    def redraw(self, features: Features, ids: Sequence[int], rng: np.random.Generator) -> Features | None:
        """Return the rows at ``ids`` as they are to be read this time, as with dynamic masking.

        Called with all rows once, when they are first made, and then for each batch of training.

        Args:
            features: The rows of a split.
            ids: Those to return.
            rng: Of everything random.

        Returns:
            ``None`` if rows are always the same.
        """
        return None

    def units(self, batch: Batch, rows: int) -> int:
        """Count what the loss is a mean over: rows by default."""
        return rows

    @abstractmethod
    def head(self, hidden: int) -> nn.Module:
        """Make the head. It is called with an ``Encoded`` and a :data:`Batch` and returns one tensor."""

    @abstractmethod
    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the loss, ``[]``: a mean per predicted unit, so that no kind drowns another."""

    @abstractmethod
    def gold(self, features: Features) -> list[Any]:
        """Return the right answers as people read them, one a row."""

    @abstractmethod
    def decode(self, outputs: Tensor, batch: Batch) -> list[Any]:
        """Return the answers in the form of :meth:`gold`, one a row."""

    def answer(self, head: nn.Module, encoded: Encoded, outputs: Tensor, batch: Batch) -> list[Any]:
        """Return the answers, one a row: by default what :meth:`decode` makes of ``outputs``.

        A kind that answers step by step, as in writing a text, does it here.

        Args:
            head: What :meth:`head` made, trained.
            encoded: The rows as encoded.
            outputs: What the head gave for them.
            batch: Their columns; without targets when predicting.
        """
        return self.decode(outputs, batch)

    def calibrate(self, features: Features, scores: Array | None) -> None:
        """Choose thresholds and the like on the validation split, once the weights are trained.

        Args:
            features: The split.
            scores: Of its rows, as :meth:`scores` gives them.
        """

    @abstractmethod
    def trivial(self) -> Any:
        """Return the answer that is best without looking at the text, such as the majority class or the mean."""

    def scores(self, outputs: Tensor) -> Tensor | None:
        """Return probabilities of the labels, ``[batch, labels]``, where the kind has them."""
        return None

    def classes_of(self, features: Features) -> Sequence[Sequence[int]] | None:
        """Return the classes that each row can stand for in an episode; ``None`` if rows have no classes, only values."""
        raise NotImplementedError

    def outputs_of(self, classes: Sequence[int]) -> list[int]:
        """Return the outputs of the head that an episode with these classes has; for kinds without classes, all."""
        raise NotImplementedError

    def narrow(self, features: Features, classes: Sequence[int]) -> Features:
        """Return rows as they are where there are no classes but these."""
        return features

    def answers(self, batch: Batch) -> Tensor:
        """Return what outputs are compared with, ``[rows, ...]``: numbers of outputs (−100 for none), or values."""
        raise NotImplementedError

    def name_requests(self) -> list[Request] | None:
        """Return a text for each class that names it, if names and rows are encoded alike; ``None`` if they are not."""
        return None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes of :meth:`classes_of`."""
        return self.labels

    def present(
        self, answer: Any, scores: Array | None, requests: Sequence[Request], batch: Mapping[str, Array]
    ) -> dict[str, Any]:
        """Return one prediction as a JSON object for people and programs.

        Args:
            answer: What :meth:`decode` gave for the row.
            scores: The row of :meth:`scores`, ``[labels]``.
            requests: The row's requests.
            batch: The row's alignment columns.
        """
        return {"answer": answer}

    def outcome(self, features: Features, predicted: Sequence[Any], scores: Array | None) -> Outcome:
        """Bring gold answers and predictions into the form the metrics take."""
        return Outcome(self.gold(features), predicted, scores, self.labels)

    def trivial_outcome(self, features: Features) -> Outcome:
        """Return the outcome of answering :meth:`trivial` on every row."""
        return self.outcome(features, [self.trivial()] * len(features), None)

    @property
    def primary_metric(self) -> Metric:
        """The metric that decides: the task's own or the kind's first.

        Raises:
            ConfigError: If the task names a metric that its kind does not have.
        """
        known = {name: metric for name, metric in self.all_metrics.items() if metric.higher_is_better is not None}
        name = self.task.metric or self.metrics[0].name
        if name not in known:
            raise ConfigError(
                f"Task {self.task.name!r}: kind {self.task.kind!r} has no metric {name!r}. "
                f"{did_you_mean(name, known)} It has: {', '.join(known)}."
            )
        return known[name]
