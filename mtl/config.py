"""The experiment file: typed, frozen, unknown keys refused. No dict travels past the loader."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from mtl.errors import ConfigError, did_you_mean, explain_validation
from mtl.task import Frozen, Task

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


class Choice(BaseModel):
    """A registered thing by name, with options: ``uncertainty`` or ``{name: temperature, temperature: 2}``."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name."""
        return dict(self.model_extra or {})


class EncoderConfig(Frozen):
    """The shared encoder.

    Args:
        name: A registered name, a local folder or a Hub id.
        revision: The Hub revision.
        pooling: How a sequence becomes one vector.
        max_length: The most tokens of a sequence; longer texts are cut and counted.
        freeze: ``none``, ``embeddings``, ``all``, or N for the embeddings and the first N layers.
        attention: The attention path; ``auto`` takes what the strategy needs.
        dropout: Overrides the encoder's own dropout.
    """

    name: str = Field(min_length=1)
    revision: str | None = None
    pooling: Literal["mean", "cls", "max"] = "mean"
    max_length: int = Field(default=128, ge=4, le=100_000)
    freeze: Literal["none", "embeddings", "all"] | Annotated[int, Field(ge=1)] = "none"
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class BatchConfig(Frozen):
    """What one optimiser step learns from.

    Args:
        size: The most rows of a batch.
        max_tokens: The most tokens of a batch, padding counted.
        mixed: Whether a batch may hold rows of several tasks.
        accumulate: Batches a step.
        evaluation_size: Rows of a batch in evaluation.
    """

    size: int = Field(default=32, ge=1)
    max_tokens: int = Field(default=16_384, ge=8)
    mixed: bool = False
    accumulate: int = Field(default=1, ge=1)
    evaluation_size: int = Field(default=64, ge=1)


class Budget(Frozen):
    """How much is learned from: passes over all training rows, or examples a task on average. One of the two."""

    epochs: Positive | None = None
    examples_per_task: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _check(self) -> Budget:
        if (self.epochs is None) == (self.examples_per_task is None):
            raise ValueError("give either epochs or examples_per_task")
        return self

    def examples(self, sizes: Mapping[str, int]) -> int:
        """Return the examples of all tasks together."""
        if self.examples_per_task is not None:
            return self.examples_per_task * len(sizes)
        return max(1, round((self.epochs or 0) * sum(sizes.values())))


class OptimizerConfig(Frozen):
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) and its schedule.

    Args:
        learning_rate: Peak rate of the encoder.
        head_learning_rate: Peak rate of heads and of what a weighting trains.
        weight_decay: Of matrices; biases and norms are left out.
        warmup: Share of the budget in which rates rise from 0.
        schedule: How rates fall after that.
        clip: Largest norm of the whole gradient; ``null`` for no clipping.
    """

    learning_rate: Positive = 5e-5
    head_learning_rate: Positive = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warmup: Fraction = 0.1
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    clip: Positive | None = 1.0


class EvaluationConfig(Frozen):
    """When the validation splits are looked at, and what follows from it.

    Args:
        times: Evaluations over the budget, the last at its end. 0: none, the last weights are kept.
        aggregate: How the tasks' skills (see :meth:`mtl.Metric.skill`) become one figure: ``mean``, ``worst``,
            or the name of a task that alone decides.
        patience: Stop after so many evaluations without a better figure.
    """

    times: int = Field(default=5, ge=0)
    aggregate: str = "mean"
    patience: Annotated[int, Field(ge=1)] | None = None


class CheckpointConfig(Frozen):
    """How often the state of a training is saved. 0 saves after every step."""

    every_seconds: Annotated[float, Field(ge=0)] = 60.0


class TargetsConfig(Frozen):
    """Few-shot transfer to tasks that were not trained.

    Args:
        tasks: Names of the target tasks.
        shots: Support rows a class.
        draws: Support sets for each number of shots.
        adaptation: How a support set becomes a predictor.
    """

    tasks: tuple[str, ...] = Field(min_length=1)
    shots: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(5,), min_length=1)
    draws: int = Field(default=20, ge=1)
    adaptation: Choice = Choice(name="prototype")


def _read_task(value: Any) -> Any:
    """Read a declared task here, so that its errors are not mixed with those of a name."""
    return Task(**value) if isinstance(value, dict) else value


class ExperimentConfig(Frozen):
    """An experiment as its author writes it. The same values and seed give the same result."""

    name: str = Field(default="experiment", pattern=r"^[A-Za-z0-9][\w.\-]*$")
    plugins: tuple[str, ...] = ()
    encoder: EncoderConfig
    tasks: tuple[Annotated[Task | str, BeforeValidator(_read_task)], ...] = Field(min_length=1)
    sources: tuple[str, ...] | None = None
    targets: TargetsConfig | None = None
    strategy: Choice = Choice(name="joint")
    sampler: Choice = Choice(name="proportional")
    batch: BatchConfig = BatchConfig()
    budget: Budget = Budget(epochs=3)
    optimizer: OptimizerConfig = OptimizerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    compare: dict[str, tuple[Any, ...]] = {}
    seed: int = Field(default=0, ge=0, lt=2**63)
    device: str = "auto"
    threads: Annotated[int, Field(ge=1)] | None = None
    output: Path = Path("runs")
    base: Path = Path()

    @property
    def hash(self) -> str:
        """Eight hex digits that change with anything that may change the result."""
        ignored = {"name", "output", "base", "checkpoint", "device", "threads", "compare"}
        text = json.dumps(self.model_dump(mode="json", exclude=ignored), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def cells(self) -> list[tuple[dict[str, Any], ExperimentConfig]]:
        """Return every combination of the ``compare`` axes, each with its experiment.

        Raises:
            ConfigError: If an axis is not a key, is empty, or has a value that the key refuses.
        """
        for axis, values in self.compare.items():
            if not values:
                raise ConfigError(f"compare: axis {axis!r} has no values.")
        plain = self.model_dump(mode="json", exclude={"compare"})
        cells = []
        for values in product(*self.compare.values()):
            point = dict(zip(self.compare, values, strict=True))
            cell = json.loads(json.dumps(plain))
            for axis, value in point.items():
                _assign(cell, axis, value, f"compare, axis {axis!r}")
            cells.append((point, validate(cell, "compare")))
        return cells


def load_config(path: Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Read an experiment file and apply ``key=value`` overrides.

    ``${NAME}`` and ``${NAME:-default}`` in it are taken from the environment.

    Raises:
        ConfigError: If the file is missing, is not YAML, or a value is not valid.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the experiment file cannot be read: {error}") from error
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: an experiment is a mapping of keys such as encoder and tasks; found {type(values).__name__}.")
    values.setdefault("name", re.sub(r"[^\w.\-]+", "-", path.stem).strip("-") or "experiment")
    values.setdefault("base", str(path.parent.absolute()))
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator or not key:
            raise ConfigError(f"--set {override!r}: write key=value, for example --set seed=1.")
        try:
            _assign(values, key, yaml.safe_load(value), f"--set {override!r}")
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {override!r}: the value is not valid YAML.") from error
    return validate(_expand(values, str(path)), str(path))


def validate(values: Any, where: str) -> ExperimentConfig:
    """Turn plain values into an experiment.

    Raises:
        ConfigError: Naming ``where``, every offending key and, for unknown keys, the nearest known one.
    """
    try:
        return ExperimentConfig.model_validate(values)
    except ValidationError as error:
        raise explain_validation(error, where, _KEYS) from error


def _expand(value: Any, where: str) -> Any:
    if isinstance(value, dict):
        return {key: _expand(item, where) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, where) for item in value]
    if not isinstance(value, str):
        return value

    def lookup(match: re.Match[str]) -> str:
        name, default = match.groups()
        found = os.environ.get(name, default)
        if found is None:
            raise ConfigError(f"{where}: the environment variable {name} is not set. Set it: {name}=… mtl run …")
        return found

    return _VARIABLE.sub(lookup, value)


def _assign(values: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Set ``a.b.c`` in nested dicts; a name on the way becomes ``{name: …}``."""
    *path, last = key.split(".")
    place = values
    for part in path:
        inner = place.get(part)
        if isinstance(inner, str):
            inner = {"name": inner}
        if inner is not None and not isinstance(inner, dict):
            raise ConfigError(f"{where}: {part!r} is {type(inner).__name__} and has no key {last!r}.")
        place[part] = {} if inner is None else inner
        place = place[part]
    if place is values and last not in ExperimentConfig.model_fields:
        near = did_you_mean(last, ExperimentConfig.model_fields)
        raise ConfigError(f"{where}: there is no key {last!r}. {near}".strip())
    place[last] = value


_MODELS: tuple[type[BaseModel], ...] = (
    ExperimentConfig,
    EncoderConfig,
    BatchConfig,
    Budget,
    OptimizerConfig,
    EvaluationConfig,
    CheckpointConfig,
    TargetsConfig,
)
_KEYS = {key for model in _MODELS for key in model.model_fields}
