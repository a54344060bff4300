"""What a training and a target share: texts whatever their case, spaces and punctuation, and classes by their names."""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

import numpy as np

from mtl.data.episodes import EpisodeRows
from mtl.data.features import Features
from mtl.errors import DataError
from mtl.metrics import Array
from mtl.model.inference import TaskData
from mtl.model.trained import Trained

_LOG = logging.getLogger(__name__)
_QUOTED = 80


def shared_texts(source: Features, others: Collection[Features]) -> list[int]:
    """Return the rows of ``source`` whose words are also a row of ``others``; case, spaces and punctuation do not matter."""
    seen = {_words(features, row) for features in others for row in range(len(features))}
    return [row for row in range(len(source)) if _words(source, row) in seen]


def asked_again(episodes: Iterable[EpisodeRows], pool: Features) -> tuple[int, int]:
    """Count the queries whose words their own support has, as a text may be in a data set more than once; and all queries."""
    words = {row: _words(pool, row) for row in range(len(pool))}
    again = every = 0
    for episode in episodes:
        learned = {words[row] for row in episode.support}
        again += sum(words[row] in learned for row in episode.query)
        every += len(episode.query)
    return again, every


def _words(features: Features, row: int) -> str:
    text = _text(features, row)
    return " ".join(re.sub(r"[\W_]+", " ", text.lower()).split()) or text  # a text without a word is compared as it is


def _text(features: Features, row: int) -> str:
    """Return the text of a row, both of a pair, however it is encoded."""
    requests = features.requests[row]
    joined = " ".join(request if isinstance(request, str) else " ".join(request) for request in requests)
    return " ".join(joined.split())


def _quoted(features: Features, row: int) -> str:
    text = _text(features, row)
    return repr(text if len(text) <= _QUOTED else f"{text[: _QUOTED - 1]}…")


def shared_classes(names: Iterable[str], others: Iterable[str]) -> list[tuple[str, str]]:
    """Return the classes that are in both, as each writes them: ``CardArrival``, ``card-arrival`` and ``Card arrival`` match."""
    written = {_class_words(name): name for name in others}
    return sorted((name, written[_class_words(name)]) for name in names if _class_words(name) in written)


def _class_words(name: str) -> str:
    parts = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", re.sub(r"[_\-./]+", " ", name))
    return " ".join(parts.lower().split()) or name


def refuse_shared_classes(names: Iterable[str], whose: str, target: TaskData, take: str) -> None:
    """Refuse a target that has a class of what is trained, or of what something is chosen on.

    Args:
        names: The classes that it must not have.
        whose: Of whom they are, for the message.
        target: The target.
        take: What to take in their place, for the message.

    Raises:
        DataError: Naming the first.
    """
    both = shared_classes(names, target.kind.class_names)
    if both:
        (name, other), *_ = both
        spelled = "" if name == other else f" as {other!r}"
        raise DataError(
            f"Class {name!r} is in {whose} and{spelled} in target {target.name!r} ({len(both)} classes are in both), and this "
            f"protocol asks for classes never trained. Take {take}, or set targets.overlap to allow."
        )


def without_overlaps(data: TaskData, targets: Mapping[str, Features], what: str) -> tuple[TaskData, dict[str, int]]:
    """Find the rows of a source's training and validation that are also in a target, and leave them out, or refuse them.

    Its validation chooses the weights that the target is learned from.

    Args:
        data: The source.
        targets: The pools.
        what: ``error``, ``drop`` or ``allow``.

    Returns:
        The source; and for each target with which it shares some, how many rows.

    Raises:
        DataError: If there are some and ``what`` is ``error``, naming the first; or if no row is left.
    """
    counts: Counter[str] = Counter()
    kept = dict(data.splits)
    for split in ("train", "validation"):
        counts.update(_count_shared(data.splits[split], f"source {data.name!r}", targets, what, "which leaves them out"))
        if what == "drop":
            kept[split] = _without(data.splits[split], data.name, targets)
    return (replace(data, splits=kept) if what == "drop" and counts else data), dict(counts)


def validation_without_overlaps(
    data: TaskData, pool: Features, targets: Mapping[str, Features], what: str
) -> tuple[TaskData, dict[str, int]]:
    """Do the same for a task of meta-validation, of which every split may be in its pool.

    Args:
        data: The task.
        pool: The rows that its episodes are drawn from.
        targets: The pools of the targets.
        what: ``error``, ``drop`` or ``allow``.

    Raises:
        DataError: See :func:`without_overlaps`.
    """
    counts = _count_shared(pool, f"validation task {data.name!r}", targets, what, "which leaves them out of validation")
    if what != "drop" or not counts:
        return data, counts
    return replace(data, splits={name: _without(rows, data.name, targets) for name, rows in data.splits.items()}), counts


def _count_shared(rows: Features, whose: str, targets: Mapping[str, Features], what: str, drop: str) -> dict[str, int]:
    """Return how many rows are in each target that has some, or refuse them."""
    counts = {}
    for name, pool in targets.items():
        shared = shared_texts(rows, [pool])
        if shared:
            counts[name] = len(shared)
            if what == "error":
                raise DataError(
                    f"{rows.rows.where(shared[0])}: {_quoted(rows, shared[0])} of {whose} is also in target {name!r} "
                    f"({len(shared)} rows are in both). Set targets.overlap to drop, {drop} and counts them, or to allow."
                )
    return counts


def _without(features: Features, task: str, targets: Mapping[str, Features]) -> Features:
    """Leave out the rows that are in a target; what is left has a fingerprint of its own, as it is numbered anew."""
    shared = set(shared_texts(features, targets.values()))
    if not shared:
        return features
    left = [row for row in range(len(features)) if row not in shared]
    if not left:
        raise DataError(
            f"Task {task!r}: every row of {features.rows.source} is also in a target, so that none is left. Take another task, "
            "or set targets.overlap to allow."
        )
    kept = features.take(left)
    digest = hashlib.sha256(f"{features.rows.fingerprint} without {sorted(shared)}".encode()).hexdigest()
    return replace(kept, rows=replace(kept.rows, fingerprint=digest))


def trained_on(data: TaskData) -> Trained:
    """Return what a bundle keeps of a source: enough to know a class or a text again, and no text."""
    train = data.splits["train"]
    return Trained(tuple(data.kind.class_names), None if train.rows.on_disk else np.unique(_hashes(train)))


def also_trained_on(before: Mapping[str, Trained], data: TaskData) -> dict[str, Trained]:
    """Return the same with a task that was learned later."""
    own = trained_on(data)
    if (same := before.get(data.name)) is not None:
        texts = None if same.texts is None or own.texts is None else np.union1d(same.texts, own.texts)
        own = Trained(tuple(dict.fromkeys((*same.classes, *own.classes))), texts)
    return {**before, data.name: own}


def _hashes(features: Features) -> Array:
    """Return a hash of every row's words, ``[rows]``. Of 64 bits: among millions of texts no two are likely to share one."""
    digests = (hashlib.blake2b(_words(features, row).encode(), digest_size=8).digest() for row in range(len(features)))
    return np.fromiter((int.from_bytes(digest, "little", signed=True) for digest in digests), np.int64, len(features))


def count_trained(trained: Mapping[str, Trained], target: str, pool: Features, what: str) -> dict[str, int]:
    """Find the rows of a target that a bundle was trained on, and refuse or count them.

    Args:
        trained: The bundle's sources.
        target: The target.
        pool: Its rows.
        what: ``allow`` counts them. They are refused for ``drop`` too: they cannot be taken out of a training that is over.

    Returns:
        For each source with some of them, how many rows of the target.

    Raises:
        DataError: Naming the first row.
    """
    hashes, counts = _hashes(pool), {}
    for name, source in trained.items():
        if source.texts is None:
            _LOG.warning(
                "source %s of the bundle: its texts stayed on disk and no hashes of them were kept, so that they are not "
                "compared with target %s",
                name,
                target,
            )
            continue
        rows = np.flatnonzero(np.isin(hashes, source.texts))
        if len(rows):
            counts[name] = len(rows)
            if what != "allow":
                first = int(rows[0])
                raise DataError(
                    f"{pool.rows.where(first)}: {_quoted(pool, first)} of target {target!r} was a training text of source "
                    f"{name!r} of the bundle ({len(rows)} rows of the target were). A training that is over cannot leave them "
                    "out, so targets.overlap: drop is of no use here. Take a bundle that was trained without them, or set "
                    "targets.overlap to allow, which counts them."
                )
    return counts
