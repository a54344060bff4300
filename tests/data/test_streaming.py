"""Rows that stay on disk give the same features, tokens, batches and bytes as rows in memory, in bounded memory."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from conftest import entity_rows, rating_rows, sentiment_rows
from full_disk import room_for_files
from safetensors.numpy import load_file
from stopping_setup import PLUGIN, STOPPER

import mtl
import mtl.data.streaming as module
from mtl.data import lazy
from mtl.data.dropping import fit_without_bad, without_bad
from mtl.data.features import Ragged, featurize
from mtl.data.sources import load_splits
from mtl.data.spool import Spool, map_safetensors, write_safetensors
from mtl.data.tokenizer import Tokenizer
from mtl.data.vocabulary import Vocabulary
from mtl.errors import DataError
from mtl.plugins import load_plugins
from mtl.task import Task


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch, tmp_path):
    """Parts and blocks that do not divide the rows, and a cache of `datasets` out of the user's home."""
    import datasets

    monkeypatch.setattr(module, "_PART_ROWS", 7)
    monkeypatch.setattr(lazy, "_BLOCK", 3)
    for name in ("HF_DATASETS_CACHE", "DOWNLOADED_DATASETS_PATH", "EXTRACTED_DATASETS_PATH"):
        monkeypatch.setattr(datasets.config, name, tmp_path / "hf" / name)


@pytest.fixture(scope="module")
def backend(encoder_folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(encoder_folder, local_files_only=True)


@pytest.fixture(scope="module")
def plugins():
    return load_plugins()


ROWS = {
    "classification": sentiment_rows(40),
    "regression": rating_rows(40),
    "token-classification": entity_rows(40),
    "masked-language-modelling": [{"text": row["text"]} for row in sentiment_rows(40)],
}


def rows_of(kind, plugins):
    """Rows of a kind: those above, or its own samples."""
    if kind in ROWS:
        return ROWS[kind], {}
    sample = plugins.kinds.get(kind).sample()
    return sample["data"], {key: value for key, value in sample.items() if key != "data"}


def write(path, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


def loaded(task, plugins, backend, cache):
    kind = plugins.kinds.get(task.kind)(task, [])
    kind.vocabulary = Vocabulary(backend)
    rows = load_splits(task, dict(kind.roles), Path())
    kind.fit(rows["train"])
    return kind, rows, {split: featurize(kind, own, Tokenizer(backend, 16, cache)) for split, own in rows.items()}


def plain(value):
    if not isinstance(value, Ragged):
        return np.asarray(value).tolist()
    return [value.values.tolist(), value.offsets.tolist(), value.fill if len(value) else None]


def same(found, expected):
    for name in ("input_ids", "token_type_ids", "first_token", "word_chars", "token_chars", "truncated", "origin"):
        ours, theirs = (getattr(features.tokenized, name) for features in (found, expected))
        assert (ours is None) == (theirs is None), name
        assert ours is None or plain(ours) == plain(theirs), name
    assert {key: plain(value) for key, value in found.columns.items()} == {k: plain(v) for k, v in expected.columns.items()}
    for name in ("counts", "offsets", "lengths"):
        assert getattr(found, name).tolist() == getattr(expected, name).tolist(), name
    assert [list(map(str, own)) for own in found.requests] == [list(map(str, own)) for own in expected.requests]
    assert {role: list(found.rows[role]) for role in found.rows.columns} == dict(expected.rows.columns)
    assert list(found.rows.numbers) == list(expected.rows.numbers)
    assert found.rows.fingerprint == expected.rows.fingerprint


KINDS = ["classification", "regression", "token-classification", "masked-language-modelling", "pair-classification"]
KINDS += ["question-answering", "ranking", "ordinal", "multilabel", "relation-extraction", "smlmt"]


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_features_are_those_of_rows_in_memory(kind, cache, plugins, backend, tmp_path):
    rows, more = rows_of(kind, plugins)
    path = write(tmp_path / "rows.jsonl", rows)
    files = {"train": path, "validation": path, "test": path}
    found = []
    for stream in (True, False):
        task = Task(name="t", kind=kind, data={"files": files, "stream": stream}, **more)
        fitted, split_rows, features = loaded(task, plugins, backend, tmp_path / str(stream) if cache else None)
        assert all(own.on_disk is stream for own in split_rows.values())
        found.append((fitted.state, features))
    assert found[0][0] == found[1][0]
    ours, theirs = (features["train"] for _, features in found)
    same(ours, theirs)
    same(ours.take([3, 0, 3]), theirs.take([3, 0, 3]))


ANNA = [{"text": "anna", "start": 0}]


def test_windows_are_those_of_rows_in_memory(plugins, backend, tmp_path):
    # Contexts of very different length, so that rows have different numbers of windows.
    rows = [
        {"question": f"who flew {n}", "context": "anna flew to paris" + " the cat sat on the mat" * (n % 5), "answers": ANNA}
        for n in range(40)
    ]
    path = write(tmp_path / "qa.jsonl", rows)
    features = []
    for stream in (True, False):
        task = Task(name="t", kind="question-answering", data={"files": path, "stream": stream}, options={"stride": 4})
        features.append(loaded(task, plugins, backend, tmp_path / str(stream))[2]["train"])
    assert features[0].tokenized.origin is not None
    assert len(set(features[0].counts.tolist())) > 1
    same(*features)


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.csv", "rows.parquet"])
def test_formats_filters_and_limits_are_those_of_rows_in_memory(name, plugins, backend, tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [{**row, "of": str(n % 3), "n": n} for n, row in enumerate(sentiment_rows(60))]
    path = tmp_path / name
    if name.endswith("csv"):
        path.write_text("text,label,of,n\n" + "".join(f"{r['text']},{r['label']},{r['of']},{r['n']}\n" for r in rows))
    elif name.endswith("parquet"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        write(path, rows)
    found = []
    for stream in (True, False):
        data = {"files": str(path), "stream": stream}
        task = Task(name="t", kind="classification", data=data, where={"of": ("0", "2")}, max_rows={"train": 17})
        found.append(loaded(task, plugins, backend, tmp_path / str(stream))[2])
    assert [len(split) for split in found[0].values()] == [17, 4, 4]  # 40 rows are kept, a tenth is cut for each
    for split in found[0]:
        same(found[0][split], found[1][split])


def test_the_cache_is_one_whoever_writes_it(plugins, backend, tmp_path, monkeypatch):
    path = write(tmp_path / "rows.jsonl", sentiment_rows(40))
    files = []
    for first, second in ((True, False), (False, True)):
        cache = tmp_path / f"cache-{first}"
        with monkeypatch.context() as patch:
            for stream in (first, second):
                loaded(Task(name="t", kind="classification", data={"files": path, "stream": stream}), plugins, backend, cache)
                # Nothing is tokenised a second time.
                patch.setattr(Tokenizer, "uncached", lambda *arguments: pytest.fail("tokenised again"))
        files.append({place.name: {k: v.tolist() for k, v in load_file(place).items()} for place in cache.glob("*.safetensors")})
        assert not list(cache.glob(".*"))
    assert len(files[0]) == 3
    assert files[0] == files[1]


def test_a_torn_file_is_made_again(plugins, backend, tmp_path):
    path = write(tmp_path / "rows.jsonl", sentiment_rows(40))
    task = Task(name="t", kind="classification", data={"files": path, "stream": True})
    expected = loaded(task, plugins, backend, tmp_path)[2]["train"].tokenized.input_ids.values.tolist()
    for torn in (b"", b"\xff" * 40, b"\x04\0\0\0\0\0\0\0{}  ", max(tmp_path.glob("*.safetensors")).read_bytes()[:-9]):
        for place in tmp_path.glob("*.safetensors"):
            place.write_bytes(torn)
        assert loaded(task, plugins, backend, tmp_path)[2]["train"].tokenized.input_ids.values.tolist() == expected


def test_safetensors_are_read_as_they_were_written(tmp_path):
    spools = {}
    for name, values in {"a": np.arange(3, dtype=np.int8), "b": np.arange(6.0).reshape(3, 2), "c": np.empty(0, np.int32)}.items():
        spools[name] = Spool(tmp_path)
        spools[name].append(values[:1])
        spools[name].append(values[1:])
    write_safetensors(tmp_path / "x", spools)
    for found in (load_file(tmp_path / "x"), map_safetensors(tmp_path / "x")):
        assert {k: (v.dtype.name, v.tolist()) for k, v in found.items()} == {
            "a": ("int8", [0, 1, 2]),
            "b": ("float64", [[0, 1], [2, 3], [4, 5]]),
            "c": ("int32", []),
        }


@pytest.mark.parametrize(
    ("bad", "told"), [({"text": ""}, r"rows\.jsonl, row 18: column 'text' is empty"), ({"label": None}, "row 18")]
)
def test_an_error_names_the_row_and_bad_rows_are_dropped(bad, told, plugins, backend, tmp_path):
    rows = sentiment_rows(40)
    rows[17] |= bad
    path = write(tmp_path / "rows.jsonl", rows)
    data = {"files": {"train": path, "validation": path, "test": path}, "stream": True}
    task = Task(name="t", kind="classification", data=data)
    with pytest.raises(DataError, match=told):
        loaded(task, plugins, backend, tmp_path / "cache")
    kind, tokenizer = plugins.kinds.get(task.kind)(task, []), Tokenizer(backend, 16)
    kept = fit_without_bad(kind, load_splits(task, dict(kind.roles), tmp_path)["train"])
    kept = without_bad(kind, kept, tokenizer)
    assert list(kept.numbers) == [number for number in range(1, 41) if number != 18]
    assert list(kept["text"]) == [row["text"] for place, row in enumerate(rows) if place != 17]


def test_a_disk_without_room_is_named_with_a_way_out(tmp_path):
    spool = Spool(tmp_path / "tokens")
    with room_for_files(2**10), pytest.raises(DataError, match=r"tokens cannot be written: .*MTL_CACHE to another folder"):
        spool.append(np.zeros(2**12))


def test_memory_does_not_grow_with_the_rows(plugins, backend, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PART_ROWS", 200)
    monkeypatch.setattr(lazy, "_BLOCK", 200)
    long = "the cat sat on" + " " * 3000  # much to hold, and quick to read
    few = write(tmp_path / "few.jsonl", sentiment_rows(20))
    path = write(tmp_path / "many.jsonl", [{"text": f"{long}{n}", "label": ("good", "bad")[n % 2]} for n in range(5000)])
    peaks = {}
    for stream in (True, False):
        data = {"files": {"train": path, "validation": few, "test": few}, "stream": stream}
        task = Task(name="t", kind="classification", data=data)
        loaded(task, plugins, backend, tmp_path / "cache")  # the caches are there
        tracemalloc.start()
        kept = loaded(task, plugins, backend, tmp_path / "cache")
        peaks[stream] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        del kept
    # The texts alone are 5,000 × 3,000 characters; a part of them, 1 in 25, is in memory at a time.
    assert peaks[False] > 5000 * 3000
    assert peaks[True] < 5000 * 3000 / 3


@pytest.mark.parametrize("mixed", [False, True])
def test_a_run_gives_the_same_bytes_and_so_does_one_that_is_resumed(experiment_values, tmp_path, monkeypatch, mixed):
    paths = {name: write(tmp_path / f"{name}.jsonl", rows) for name, rows in list(ROWS.items())[:3]}

    def experiment(stream, output):
        tasks = [{"name": n, "kind": n, "data": {"files": path, "stream": stream}} for n, path in paths.items()]
        values = {**experiment_values, "tasks": tasks, "batch": {"size": 8, "mixed": mixed}, "output": str(tmp_path / output)}
        return mtl.Experiment.of(**values, checkpoint={"every_seconds": 0}, plugins=[PLUGIN])

    stopped = experiment(True, "stopped")
    monkeypatch.setattr(STOPPER, "stop_at", 5)
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    monkeypatch.setattr(STOPPER, "stop_at", 0)
    expected, *others = (one.run().folder for one in (experiment(False, "memory"), experiment(True, "disk"), stopped))
    for folder in others:
        for name in ("results.json", "data.json", "models/joint/log.jsonl", "models/joint/encoder/model.safetensors"):
            assert (folder / name).read_bytes() == (expected / name).read_bytes(), name
