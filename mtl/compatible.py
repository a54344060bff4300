"""What of an experiment does not go together, said before anything slow begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mtl.errors import ConfigError

if TYPE_CHECKING:
    from mtl.config import ExperimentConfig
    from mtl.training.strategy import Strategy


def check_encoder(config: ExperimentConfig, strategy: Strategy) -> None:
    """Refuse what a strategy, or another key, cannot have of the encoder.

    Raises:
        ConfigError: Saying which does not go with which, and why.
    """
    encoder, name = config.encoder, config.strategy.name
    if encoder.checkpointing and strategy.second_order:
        raise ConfigError(
            f"encoder.checkpointing: strategy {name!r} takes second derivatives, which would be wrong: a layer that is "
            "computed again on the way back cannot be differentiated a second time. Set it to false; to save memory there, "
            "adapt fewer layers, or set strategy.memory to recompute."
        )
    if not encoder.compile:
        return
    if strategy.second_order:
        raise ConfigError(
            f"encoder.compile: strategy {name!r} takes second derivatives, which torch.compile does not have. Set it to false."
        )
    if strategy.trains and not strategy.trains_heads:
        raise ConfigError(
            f"encoder.compile: strategy {name!r} learns from episodes, for which the encoder runs in parts and with other "
            "parameters; only whole passes are compiled. Set it to false."
        )
    for key in ("cache", "checkpointing"):
        if getattr(encoder, key):
            raise ConfigError(f"encoder.compile does not go with encoder.{key}, for which layers run one by one. Set one only.")


def check_mix(config: ExperimentConfig, strategy: Strategy) -> None:
    """Refuse what heads that read a mix of all layers cannot do.

    Raises:
        ConfigError: Saying what, and why.
    """
    why = "encoder.mix gives the head of every trained task weights of all layers"
    _check_sources_alone(config, strategy, why, "encoder.mix")
    if config.encoder.cache:
        raise ConfigError(f"{why}; encoder.cache keeps what leaves the last frozen layer alone. Set one only.")


def check_per_task(config: ExperimentConfig, strategy: Strategy) -> None:
    """Refuse what adapters of each task cannot do.

    Raises:
        ConfigError: Saying what, and why.
    """
    why = "encoder.adapter.per_task gives every trained task an adapter of its own"
    _check_sources_alone(config, strategy, why, "per_task")
    for key in ("checkpointing", "compile"):
        if getattr(config.encoder, key):
            raise ConfigError(f"{why}, which rows change from pass to pass; encoder.{key} cannot follow that. Set one only.")


def _check_sources_alone(config: ExperimentConfig, strategy: Strategy, why: str, key: str) -> None:
    """Refuse targets and strategies that have no heads of trained tasks."""
    if config.targets is not None:
        raise ConfigError(f"{why}, and a target that is not trained has none. Take the targets out, or set {key}: false.")
    if not strategy.trains_heads:
        name = config.strategy.name
        raise ConfigError(f"{why}, and the strategy {name!r} trains no single tasks. Use joint, or set {key}: false.")
