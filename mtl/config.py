"""The experiment file: typed, frozen, unknown keys refused. No dict travels past the loader."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from mtl.axes import CompareConfig, Point
from mtl.budget import Budget, Positive
from mtl.declared import Tasks
from mtl.errors import ConfigError, explain_validation
from mtl.overrides import assign
from mtl.strict_yaml import read_file, read_value
from mtl.task import Frozen
from mtl.variables import expand

Fraction = Annotated[float, Field(ge=0, le=1)]


def _read_name(value: Any) -> Any:
    """Let a name stand for a mapping with the key ``name``."""
    if not isinstance(value, str | dict | BaseModel):
        raise ValueError("must be a name, or a mapping with the key name")
    return {"name": value} if isinstance(value, str) else value


def _check_name(name: str) -> str:
    if not re.fullmatch(r"[^\W_][\w.\-]*", name):
        raise ValueError("must be letters, digits, '_', '-' and '.' only, as it names a folder")
    return name


class Choice(BaseModel):
    """A registered thing by name, with options: ``uncertainty`` or ``{name: temperature, temperature: 2}``."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        return _read_name(value)

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name."""
        return dict(self.model_extra or {})


class EncoderConfig(Frozen):
    """The shared encoder.

    Args:
        name: A registered name, a local folder or a Hub id.
        revision: The Hub revision.
        layers: Use the first N layers only; the others are not loaded, trained or saved. Default: all.
        pooling: How a sequence becomes one vector.
        max_length: The most tokens of a sequence; longer texts are cut and counted.
        freeze: ``none``, ``embeddings``, ``all``, or N for the embeddings and the first N layers.
        attention: The attention path; ``auto`` is ``sdpa``, and matrix products where its kernel is slow or has no derivative.
        precision: ``bf16`` computes the encoder in bfloat16 by autocast, parameters staying float32; ``auto`` does so
            where the processor has it. A CPU without it is slow with ``bf16``, a GPU without it is refused.
        dropout: Overrides the encoder's own dropout.
        token_dropout: Share of tokens that are hidden at random in training: nothing attends to them, and they are not pooled
            (word dropout; Iyyer et al. 2015, "Deep Unordered Composition", ACL).
        cache: Gigabytes on disk that may hold what leaves the frozen layers of this encoder, so that every text goes through
            them once, whatever run or process asks; they have no dropout then. While all that is kept takes more than
            the largest such number, what no process uses is removed, what was used longest ago first. 0: nothing is kept.
        checkpointing: Whether training keeps of every layer its input only and computes the layer again on the way back: less
            memory, more time, the same result (Chen et al. 2016, arXiv:1604.06174). Not with second derivatives.
        compile: Whether passes of the whole encoder in training are compiled by ``torch.compile``: for GPUs and long trainings.
        mix: Whether the head of each task reads a mix of all layers, with weights of its own, instead of the last.
        adapter: A few weights in the layers, trained in the place of all (with ``freeze: all``) or by inner loops. Default: none.
    """

    name: str = Field(min_length=1)
    revision: str | None = None
    layers: Annotated[int, Field(ge=1)] | None = None
    pooling: Literal["mean", "cls", "max"] = "mean"
    max_length: int = Field(default=128, ge=4, le=100_000)
    freeze: Literal["none", "embeddings", "all"] | Annotated[int, Field(ge=1)] = "none"
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    token_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    cache: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    checkpointing: bool = False
    compile: bool = False
    mix: bool = False
    adapter: Choice | None = None

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        return _read_name(value)


class BatchConfig(Frozen):
    """What one optimiser step learns from.

    Args:
        size: The most rows of a batch.
        max_tokens: The most tokens of a batch, padding counted.
        mixed: Whether a batch may hold rows of several tasks, so that a step learns from all of them.
        accumulate: Batches a step.
        evaluation_size: Rows of a batch in evaluation.
    """

    size: int = Field(default=32, ge=1)
    max_tokens: int = Field(default=16_384, ge=8)
    mixed: bool = True
    accumulate: int = Field(default=1, ge=1)
    evaluation_size: int = Field(default=64, ge=1)


def _check_span(value: int | tuple[int, int]) -> int | tuple[int, int]:
    if isinstance(value, tuple) and value[0] > value[1]:
        raise ValueError(f"the first of two numbers is the smaller one (found {value[0]} and {value[1]})")
    return value


_Count = Annotated[int, Field(ge=1)]
#: A number, or the smallest and largest of numbers to draw from.
Span = Annotated[_Count | tuple[_Count, _Count], AfterValidator(_check_span)]


class EpisodesConfig(Frozen):
    """What an episode of an episodic strategy is: so many ways (classes), shots (support rows a class) and queries.

    Args:
        ways: Classes of an episode, or the fewest and most to draw from.
        shots: Support rows a class, or the fewest and most; rows in all for kinds without classes.
        imbalanced: Whether each class draws its own number of shots.
        queries: Query rows a class; rows in all for kinds without classes.
        per_step: Episodes an optimiser step (the meta-batch).
        names: Whether the classes' written names are read with the support, by strategies that do: protonet and protomaml.
    """

    ways: Span = 5
    shots: Span = 5
    imbalanced: bool = False
    queries: int = Field(default=5, ge=1)
    per_step: int = Field(default=1, ge=1)
    names: bool = False


class OptimizerConfig(Frozen):
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) and its schedule.

    Args:
        learning_rate: Peak rate of the encoder.
        head_learning_rate: Peak rate of heads and of what a weighting trains.
        weight_decay: Of matrices; biases and norms are left out.
        warmup: Share of the budget in which rates rise from 0.
        schedule: How rates fall after that.
        betas: Decay of AdamW's running means of the gradient and of its square.
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
    """How often the state of a training is saved, so that a killed run can go on.

    Args:
        every_seconds: Time between two checkpoints. 0 saves after every step.
    """

    every_seconds: Annotated[float, Field(ge=0)] = 60.0


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


class TargetsConfig(Frozen):
    """Few-shot transfer to tasks that were not trained.

    Args:
        tasks: Names of the target tasks.
        shots: Support rows a class; rows in all for kinds without classes. 0 is for methods that read label names.
        protocol: Which rows are learned from and which are asked: ``domain``, ``episodic`` or ``supports``.
        adaptation: How a support becomes a predictor; one or several. ``inner-loop`` is the way that the strategy
            has practised.
        validation: Tasks for meta-validation: the best weights and the options of ``tune`` are chosen by transfer to
            these. Default: the weights are chosen by the validation splits of the sources.
        validation_episodes: Episodes of each validation task and number of shots.
        tune: Options of adaptations and the values to choose from on the validation tasks, such as
            ``{logistic.C: [1, 10]}``. What is chosen is kept in the bundle.
        beside_untouched: Whether a target is read by the untouched encoder too, its vectors beside the trained one's: twice
            the passes, and what training has forgotten is still there. The bundle has the trained encoder alone.
        overlap: What to do if a source or a validation task shares a text with a target: ``error``, ``drop`` it from training
            or validation, or ``allow``. A bundle has been trained already: nothing can be dropped from it.
        baselines: Strategies that are run beside the one asked for, or beside the bundles of ``mtl transfer``, on the same budget
            and episodes.
    """

    tasks: tuple[str, ...] = Field(min_length=1)
    shots: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(5,), min_length=1)
    protocol: Choice = Choice(name="domain")
    adaptation: Annotated[tuple[Choice, ...], BeforeValidator(_as_list), Field(min_length=1)] = (Choice(name="prototype"),)
    validation: tuple[str, ...] = ()
    validation_episodes: _Count = 50
    tune: dict[str, tuple[Any, ...]] = {}
    beside_untouched: bool = False
    overlap: Literal["error", "drop", "allow"] = "error"
    baselines: tuple[str, ...] = ("none", "joint")


class ExperimentConfig(Frozen):
    """An experiment as its author writes it. The same values and seed give the same result.

    Args:
        name: Names the folder of its runs. Default in a file: the file's name without its ending.
        plugins: Plugins that are not installed, as ``module``, ``module:object`` or ``file.py``.
        encoder: The shared encoder; its name alone may stand for it.
        tasks: The tasks: names that plugins have registered, or declarations. One with ``split_by: {domain: [books, films]}``
            stands for a task of each value of that column, with a head of its own; ``{domain}`` in its name is the value.
        sources: Names of the tasks that are trained. Default: all that are not targets.
        targets: Few-shot transfer to tasks that are not trained. Default: none is measured.
        strategy: How the parameters are learned.
        sampler: How the examples are shared among the tasks.
        batch: What one optimiser step learns from.
        episodes: What an episodic strategy draws.
        budget: How much is learned from.
        optimizer: The optimiser and its schedule.
        evaluation: When the validation splits are looked at, and what follows from it.
        checkpoint: How often the state of a training is saved.
        define: Values for ``${NAME}`` in other keys; before the environment's. May be an axis of ``compare``.
        compare: A grid: axes over any keys, a key and a list of its values. Every combination is a run.
        seed: Of everything random.
        device: ``auto``, ``cpu``, ``cuda``, …; ``auto`` is a GPU where there is one.
        tf32: Whether a CUDA device multiplies float32 matrices in TensorFloat-32: faster from Ampere on, less exact.
        threads: Threads of PyTorch on the CPU. Default: PyTorch's own choice.
        output: The folder of all experiments, from where the command is run.
        base: The folder that relative paths of data and encoder start from. Default in a file: the file's folder.
    """

    name: Annotated[str, AfterValidator(_check_name)] = "experiment"
    plugins: tuple[str, ...] = ()
    encoder: EncoderConfig
    tasks: Tasks = Field(min_length=1)
    sources: tuple[str, ...] | None = None
    targets: TargetsConfig | None = None
    strategy: Choice = Choice(name="joint")
    sampler: Choice = Choice(name="proportional")
    batch: BatchConfig = BatchConfig()
    episodes: EpisodesConfig = EpisodesConfig()
    budget: Budget = Budget(epochs=3)
    optimizer: OptimizerConfig = OptimizerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    define: dict[str, str] = {}
    compare: CompareConfig = CompareConfig()
    seed: int = Field(default=0, ge=0, lt=2**63)
    device: str = "auto"
    tf32: bool = False
    threads: Annotated[int, Field(ge=1)] | None = None
    output: Path = Path("runs")
    base: Path = Path()

    @property
    def hash(self) -> str:
        """Eight hex digits that change with anything that may change the result."""
        ignored = {"name", "output", "base", "checkpoint", "device", "threads", "compare"}
        plain = self.model_dump(mode="json", exclude=ignored, exclude_none=True)
        del plain["encoder"]["checkpointing"]  # the result is the same to the last bit
        for task in plain["tasks"]:
            if isinstance(task, dict):
                task["data"].pop("stream", None)  # likewise
        text = json.dumps(plain, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def cells(self) -> list[tuple[Point, ExperimentConfig]]:
        """Return every cell of ``compare``: its point, and its experiment. Without axes there is one.

        Raises:
            ConfigError: If an axis is not a key, is empty, or has a value that the key refuses.
        """
        plain = self.model_dump(mode="json", exclude={"compare"})
        cells = []
        for point, settings in self.compare.points():
            cell = json.loads(json.dumps(plain))
            for key, value in settings.items():
                assign(cell, key, value, f"compare, axis {key!r}", ExperimentConfig.model_fields)
            cells.append((point, validate(expand(cell, "compare", {}, cell["define"]), "compare")))
        return cells

    def with_strategy(self, name: str) -> ExperimentConfig:
        """Return the same experiment with another strategy; none of the options of this one."""
        return self.model_copy(update={"strategy": Choice(name=name)})


def load_config(path: Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Read an experiment file and apply ``key=value`` overrides.

    ``${NAME}`` and ``${NAME:-default}`` in it are taken from the environment.

    Raises:
        ConfigError: If the file is missing, is not YAML, or a value is not valid.
    """
    values = read_file(path)
    if not isinstance(values, dict):
        found = "an empty file" if values is None else f"a {type(values).__name__}"
        raise ConfigError(f"{path}: an experiment is a mapping of keys such as encoder and tasks; found {found}.")
    values.setdefault("name", re.sub(r"[^\w.\-]+", "-", path.stem).strip("-") or "experiment")
    values.setdefault("base", str(path.parent.absolute()))
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator or not key:
            raise ConfigError(f"--set {override!r}: write key=value, for example --set seed=1.")
        where = f"--set {override!r}"
        assign(values, key, read_value(value, where), where, ExperimentConfig.model_fields)
    return validate(expand(values, str(path), os.environ, values.get("define") or {}), str(path))


def validate(values: Any, where: str) -> ExperimentConfig:
    """Turn plain values into an experiment.

    Raises:
        ConfigError: Naming ``where``, every offending key and, for unknown keys, the nearest known one.
    """
    try:
        return ExperimentConfig.model_validate(values)
    except ValidationError as error:
        raise explain_validation(error, where, _KEYS) from error


def _keys_of(model: type[BaseModel]) -> list[str]:
    """Return the keys of an experiment file; those of an inner level with a dot."""
    keys = []
    for key, field in model.model_fields.items():
        inner = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)]
        keys += [key, *(f"{key}.{name}" for kind in inner if issubclass(kind, Frozen) for name in kind.model_fields)]
    return keys


_KEYS = _keys_of(ExperimentConfig)
