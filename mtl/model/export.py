"""Exporting a bundle: adapters folded into the weights, nothing needed beside it."""

from __future__ import annotations

from pathlib import Path

from mtl.errors import ConfigError, UnknownNameError
from mtl.model.bundle import Bundle, find_bundle
from mtl.model.multitask import head_key


def export(bundle: Bundle, folder: Path, task: str | None = None, *, merge: bool = True) -> Bundle:
    """Write a bundle that holds all of its encoder.

    Args:
        bundle: The bundle; it is not changed.
        folder: Where to.
        task: The one task to keep; must be given to merge where every task has adapters of its own.
        merge: Whether adapters are folded into the encoder's weights. Else they stay beside them.

    Returns:
        What was written.

    Raises:
        UnknownNameError: If there is no head for the task.
        ConfigError: If the adapters cannot be merged, or not for several tasks at once.
    """
    if task is not None and task not in bundle.model.kinds:
        raise UnknownNameError("task", task, bundle.model.kinds)
    made = merged(bundle, task) if merge else bundle
    made.save(folder, whole=True)
    return made


def check_folder(folder: Path, bundle: Path) -> None:
    """Refuse a folder in which a new bundle would be among other things, or in place of the one that it is made from.

    Args:
        folder: Where the new one is to be.
        bundle: What it is made from.

    Raises:
        ConfigError: Naming the folder.
    """
    if folder.resolve() == find_bundle(bundle).resolve():
        raise ConfigError(f"--output {folder}: that is the bundle to start from. Name another folder.")
    if folder.exists() and not (folder / "bundle.json").is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"--output {folder}: it is there, and no bundle that could be replaced. Name a new folder.")


def merged(bundle: Bundle, task: str | None = None) -> Bundle:
    """Return a bundle with a plain encoder that gives what the one with adapters gave.

    What was practised in episodes is left out: it is about adapters that are no longer there.

    Args:
        bundle: The bundle; it is not changed.
        task: The one task to keep, where every task has adapters of its own.

    Raises:
        ConfigError: If the adapters cannot be merged, or not for several tasks at once.
    """
    model = bundle.model
    tasks = list(model.kinds) if task is None else [task]
    encoder = model.encoder.copy()
    if encoder.per_task and len(tasks) != 1:
        raise ConfigError(
            f"Each of {', '.join(map(repr, tasks))} has adapters of its own, so that merging gives an encoder for each. Name "
            "one task (--task), or keep the adapters (--keep-adapters)."
        )
    encoder.merge_adapters(head_key(tasks[0]) if encoder.per_task else None)
    config = bundle.config.model_copy(update={"adapter": None})
    # A head on features of length 1 was learned from a few rows. Where there are only such, training was in episodes.
    in_episodes = all(getattr(model.head(name), "unit", False) for name in tasks)
    practice = None if in_episodes and model.encoder.adapters is not None else bundle.practice
    return Bundle(model.on(encoder, tasks), config, bundle.plugins, practice, bundle.missing, bundle.trained)
