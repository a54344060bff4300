"""A trained model on disk: safetensors and JSON, one encoder with all heads. Loading runs nothing from it."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import mtl
from mtl.config import EncoderConfig
from mtl.data.batches import collate
from mtl.data.features import Features, featurize
from mtl.data.rows import Rows
from mtl.data.tokenizer import Remembering
from mtl.errors import BundleError, DataError, MTLError, UnknownNameError, did_you_mean
from mtl.files import read_json, write_atomic, write_json
from mtl.kind import TaskKind
from mtl.model.adapters import ADAPTERS_FILE
from mtl.model.inference import _MAX_TOKENS, device_of, embed
from mtl.model.multitask import MultiTaskModel, head_key
from mtl.model.origin import load_base, save_encoder
from mtl.model.practice import Practice, load_practice, save_practice
from mtl.model.trained import Trained, load_trained, save_trained
from mtl.plugins import Plugins, load_plugins
from mtl.task import Task

_LOG = logging.getLogger(__name__)
FORMAT = 3
_CHUNK_ROWS = 1024
_MAX_WORDS = 10_000


class Bundle:
    """A trained model, ready to predict.

    Args:
        model: The encoder with its heads.
        config: How the encoder is used.
        plugins: Name and distribution of the plugins that brought the kinds.
        practice: How it has learned to learn.
        missing: Tasks whose heads are left out, each with what is needed to use it.
        trained: What each source gave to the training of the encoder; ``None`` if that is not known.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        config: EncoderConfig,
        plugins: Mapping[str, str],
        practice: Practice | None = None,
        missing: Mapping[str, str] | None = None,
        trained: Mapping[str, Trained] | None = None,
    ) -> None:
        self.model, self.config, self.plugins, self.practice = model, config, dict(plugins), practice
        self.missing = dict(missing or {})
        self.trained = None if trained is None else dict(trained)

    @property
    def label(self) -> str:
        """How it was trained, for tables."""
        return "bundle" if self.practice is None else self.practice.strategy.name

    @property
    def fingerprint(self) -> str:
        """Eight hex digits that change with the encoder's weights."""
        digest = hashlib.sha256()
        for name, value in sorted(self.model.encoder.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:8]

    @property
    def tasks(self) -> dict[str, Task]:
        """The tasks it has heads for."""
        return {name: kind.task for name, kind in self.model.kinds.items()}

    def save(self, folder: Path, *, whole: bool = False) -> None:
        """Write the bundle; ``bundle.json`` comes last, and one that was there goes first: half a bundle is never taken for one.

        Adapters in a registered encoder that was not changed are written without it: its name and sha256 stand for it.

        Args:
            folder: Where to.
            whole: Whether to write such an encoder too, so that nothing is needed beside the bundle.

        Raises:
            BundleError: If heads were left out when it was loaded: they would be lost.
        """
        if self.missing:
            raise BundleError(f"The bundle cannot be written without its head of task {'; '.join(self.missing.values())}")
        _clear(folder)
        origin = save_encoder(self.model.encoder, folder / "encoder", whole=whole)
        # Clones, because safetensors refuses weights that a head uses twice.
        heads = {name: value.detach().cpu().contiguous().clone() for name, value in self.model.heads.state_dict().items()}
        write_atomic(folder / "heads.safetensors", lambda path: save_file(heads, path))
        practice = None if self.practice is None else save_practice(folder, self.practice)
        trained = None if self.trained is None else save_trained(folder, self.trained)
        write_json(
            folder / "bundle.json",
            {
                "format": FORMAT,
                "mtl": mtl.__version__,
                "plugins": self.plugins,
                "encoder": self.config.model_dump(mode="json"),
                "base": None if origin is None else vars(origin),
                "tasks": [
                    {
                        "task": kind.task.model_dump(mode="json", exclude={"data", "where", "max_rows", "bad_rows"}),
                        "state": kind.state,
                        "unit": getattr(self.model.head(name), "unit", False),
                    }
                    for name, kind in self.model.kinds.items()
                ],
                "practice": practice,
                "trained": trained,
            },
        )

    def predict(
        self,
        rows: Sequence[str | Mapping[str, Any]],
        tasks: Sequence[str] | None = None,
        *,
        batch_size: int = 64,
        source: str = "input",
        first_row: int = 1,
    ) -> list[dict[str, Any]]:
        """Answer texts or rows with every head, from one encoder pass; from one for each task that has adapters of its own.

        Args:
            rows: Texts, or mappings from column role to value (``text``, ``text_pair``, ``tokens``, …).
            tasks: The heads to ask. Default: of each row all whose columns it has.
            batch_size: The most rows of an encoder pass.
            source: What messages call the rows.
            first_row: The number of the first row in messages.

        Returns:
            For each row a dict from task to its prediction.

        Raises:
            UnknownNameError: If there is no head for a task.
            BundleError: If there are no heads, or the head was left out, as the plugin of its kind is missing.
            DataError: If a row lacks a column, or holds something that cannot be read.
        """
        for what, given in (("rows", rows), ("tasks", tasks)):
            if isinstance(given, str):
                raise DataError(f"predict takes a list of {what}; it was given one text. Put it into a list.")
        if not self.model.kinds:
            how = f"The bundle of {self.label!r} has no heads, as it has learned in episodes."
            raise BundleError(f"{how} Give it one with mtl adapt and a few rows.")
        for name in tasks or ():
            if name in self.missing:
                raise BundleError(f"Task {self.missing[name]}")
            if name not in self.model.kinds:
                raise UnknownNameError("task", name, self.model.kinds)
        plain = [dict(row) if isinstance(row, Mapping) else {"text": row} for row in rows]
        answers: list[dict[str, Any]] = []
        for start in range(0, len(plain), _CHUNK_ROWS):
            chunk = plain[start : start + _CHUNK_ROWS]
            found: list[dict[str, Any]] = [{} for _ in chunk]
            alike: dict[frozenset[str], list[int]] = {}  # what a row has says which heads can read it
            for index, row in enumerate(chunk):
                alike.setdefault(frozenset(row), []).append(index)
            for places in alike.values():
                numbers = Rows({}, source, [first_row + start + index for index in places])
                for index, answer in zip(
                    places, self._predict([chunk[i] for i in places], numbers, tasks, batch_size), strict=True
                ):
                    found[index] = answer
            answers += found
        return answers

    def embed(self, texts: Sequence[str], task: str | None = None, *, batch_size: int = 64, source: str = "input") -> np.ndarray:
        """Return the shared encoder's pooled vector of every text, to be searched or clustered by others.

        The score of :mod:`ranking <mtl_tasks.ranking>` with ``encoding: bi`` grows with the cosine of two such vectors, so that
        those of all candidates can be made once.

        Args:
            texts: The texts.
            task: Whose adapters they go through, where every task has its own.
            batch_size: The most texts of an encoder pass.
            source: What messages call the texts.

        Returns:
            Array of float32, ``[texts, hidden]``; not brought to length 1.

        Raises:
            DataError: If a text is empty or none.
            UnknownNameError: If there is no such task.
            EncoderError: If every task has adapters of its own, and no task is named.
        """
        if task is not None and task not in self.model.kinds:
            raise UnknownNameError("task", task, self.model.kinds)
        if isinstance(texts, str):
            raise DataError("embed takes a list of texts; it was given one text. Put it into a list.")
        rows = Rows({"text": list(texts)}, source, range(1, len(texts) + 1))
        requests = list(rows.texts("text", max_words=_MAX_WORDS))
        if not requests:
            return np.empty((0, self.model.encoder.hidden), dtype=np.float32)
        features = Features(self.model.encoder.tokenizer.uncached(requests, False), 1, {}, rows)
        key = None if task is None else head_key(task)
        found: np.ndarray = embed(self.model.encoder, features, size=batch_size, task=key).float().cpu().numpy()
        return found

    def _predict(
        self, rows: list[dict[str, Any]], place: Rows, tasks: Sequence[str] | None, batch_size: int
    ) -> list[dict[str, Any]]:
        kinds = self._kinds_for(rows, place, tasks)
        features = self._featurize(kinds, rows, place)
        if cut := max(split.tokenized.truncated for split in features.values()):
            longest, where = self.model.encoder.tokenizer.max_length, f"{place.where(0)} to {place.numbers[-1]}"
            _LOG.warning("%s: %d texts are longer than %d tokens and are read so far", where, cut, longest)
        lengths = torch.stack([torch.from_numpy(split.lengths) for split in features.values()]).amax(0)
        order = torch.argsort(lengths, descending=True, stable=True).tolist()
        answers: list[dict[str, Any]] = [{} for _ in rows]
        self.model.eval()
        passes = len(kinds) if self.model.encoder.per_task else 1
        size = max(1, min(batch_size, _MAX_TOKENS // max(1, int(lengths.max()) * passes)))
        for begin in range(0, len(order), size):
            ids = order[begin : begin + size]
            with torch.inference_mode():
                batch = collate(dict.fromkeys(kinds, ids), features).to(device_of(self.model))
                for name, (outputs, found) in self.model.answer(batch).items():
                    kind, columns, split = kinds[name], batch.parts[name].columns, features[name]
                    scores = kind.scores(outputs)
                    table = None if scores is None else scores.float().cpu().numpy()
                    arrays = {key: value.cpu().numpy() for key, value in columns.items()}
                    for position, (row, answer) in enumerate(zip(ids, found, strict=True)):
                        requests = split.requests[row]
                        own = {key: value[position] for key, value in arrays.items()}
                        answers[row][name] = kind.present(answer, None if table is None else table[position], requests, own)
        return answers

    def _kinds_for(self, rows: list[dict[str, Any]], place: Rows, tasks: Sequence[str] | None) -> dict[str, TaskKind]:
        """Return the kinds that can read every row: those asked for, or all there are."""
        able = {name: kind for name, kind in self.model.kinds.items() if not tasks or name in tasks}
        for index, row in enumerate(rows):
            unable = [name for name, kind in able.items() if not kind.readable(row.keys())]
            if unable and (tasks or len(unable) == len(able)):
                kind = able[unable[0]]
                read = [role for role in kind.roles if role not in kind.target_roles]
                hints = [hint for key in row if key not in read and (hint := did_you_mean(key, read))]
                found = ", ".join(map(repr, row)) or "no column"
                needed = [role for role in read if kind.roles[role] and role not in row]
                lacks = f" without {', '.join(map(repr, needed))}" if needed else ""
                advice = " ".join([*hints[:1], f"The task reads {', '.join(map(repr, read))}."])
                raise place.error(index, f"it has {found}, which task {unable[0]!r} cannot read{lacks}. {advice}")
            for name in unable:
                del able[name]
        return {name: able[name] for name in tasks or able}

    def _featurize(self, kinds: Mapping[str, TaskKind], rows: list[dict[str, Any]], place: Rows) -> dict[str, Features]:
        """Tokenise rows for every kind; kinds that ask for the same sequences share them."""
        keys = {key for row in rows for key in row}
        columns = {key: [row.get(key) for row in rows] for key in keys}
        tokenizer = Remembering(self.model.encoder.tokenizer)
        words = any(kind.needs_words for kind in kinds.values())
        features = {}
        for name, kind in kinds.items():
            read = {role: values for role, values in columns.items() if role in kind.roles and role not in kind.target_roles}
            features[name] = featurize(kind, replace(place, columns=read), tokenizer.with_words(words), with_targets=False)
        return features


def _clear(folder: Path) -> None:
    """Remove a bundle that is to be written over, beginning with the file that says that it is one."""
    if (folder / "bundle.json").is_file():
        (folder / "bundle.json").unlink()
        shutil.rmtree(folder / "encoder", ignore_errors=True)
        for name in ("heads", "practice", "trained"):
            (folder / f"{name}.safetensors").unlink(missing_ok=True)


def load_bundle(path: str | Path, *, plugins: Plugins | None = None, device: str = "cpu") -> Bundle:
    """Load a bundle, or a run's only bundle. Heads whose kind no plugin brings are left out, with a warning.

    Args:
        path: The bundle's folder, or a run's.
        plugins: The plugins that bring the kinds. Default: those installed and in ``MTL_PLUGINS``.
        device: Where to put the model.

    Raises:
        BundleError: If the folder is not a bundle or does not fit together.
        UnknownNameError: If no head is left, as the plugins of their kinds are not there.
    """
    folder = find_bundle(Path(path))
    about = read_json(folder / "bundle.json", BundleError)
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        found = about.get("format") if isinstance(about, dict) else about
        raise BundleError(f"{folder}: format {found!r}; this version reads format {FORMAT}. Was it written by another version?")
    plugins = plugins or load_plugins()
    try:
        kinds: dict[str, TaskKind] = {}
        missing: dict[str, str] = {}
        units: dict[str, bool] = {}
        for entry in about["tasks"]:
            task = Task(data=[], **entry["task"])
            if task.kind not in plugins.kinds:
                brought_by = about["plugins"].get(task.kind, "a plugin")
                hint = f"The bundle has it from {brought_by}: install that, or name it with --plugin."
                if len(missing) + 1 == len(about["tasks"]):
                    raise UnknownNameError("kind", task.kind, plugins.kinds, hint=hint)
                missing[task.name] = f"{task.name!r} is of kind {task.kind!r}, which no plugin brings. {hint}"
                continue
            units[task.name] = entry["unit"]
            kinds[task.name] = _read_kind(entry, plugins)
        config = EncoderConfig.model_validate(about["encoder"])
        model = MultiTaskModel(load_base(config, about["base"], folder, plugins), kinds, lambda name: 0)
        if model.encoder.adapters is not None:
            model.encoder.adapters.load(folder / "encoder" / ADAPTERS_FILE)
        heads = _read_heads(folder / "heads.safetensors")
        left_out = tuple(f"{head_key(name)}." for name in missing)
        model.heads.load_state_dict({name: value for name, value in heads.items() if not name.startswith(left_out)})
        for name in (name for name, unit in units.items() if unit):
            model.head(name).unit = True  # type: ignore[assignment]
        practice = load_practice(folder, about["practice"])
        trained = load_trained(folder, about.get("trained"))  # which earlier versions did not write
        brought = dict(about["plugins"])
    except MTLError:
        raise
    except (LookupError, AttributeError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        detail = lines[1] if len(lines) > 1 else f"there is no {lines[0]}" if isinstance(error, KeyError) else lines[0]
        raise BundleError(f"{folder}: the bundle is incomplete or its parts do not fit: {detail}") from error
    model.eval()
    for text in missing.values():
        _LOG.warning("%s: task %s The other heads answer.", folder, text)
    return Bundle(model.to(device), config, brought, practice, missing, trained)


def read_kinds(folder: Path, plugins: Plugins) -> dict[str, TaskKind]:
    """Read the kinds of a bundle's tasks, and nothing else of it."""
    entries = read_json(folder / "bundle.json", BundleError)["tasks"]
    return {entry["task"]["name"]: _read_kind(entry, plugins) for entry in entries}


def _read_kind(entry: Mapping[str, Any], plugins: Plugins) -> TaskKind:
    task = Task(data=[], **entry["task"])
    kind: TaskKind = plugins.kinds.get(task.kind)(task, plugins.metrics_of(task.kind))
    kind.load_state(entry["state"])
    return kind


def _read_heads(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise BundleError(f"{path} is missing or torn: {error}") from error


def find_bundle(path: Path) -> Path:
    """Return the folder of a bundle, or of a run's only bundle.

    Raises:
        BundleError: If there is none, or there are several.
    """
    if not path.is_dir():
        raise BundleError(f"There is no folder {path}.")
    if (path / "bundle.json").is_file():
        return path
    inside = sorted(found.parent for found in path.glob("**/bundle.json"))
    if len(inside) == 1:
        return inside[0]
    if inside:
        names = ", ".join(str(folder) for folder in inside)
        raise BundleError(f"{path} has {len(inside)} bundles; name one of: {names}")
    raise BundleError(f"{path} is not a bundle: there is no bundle.json in it.")
