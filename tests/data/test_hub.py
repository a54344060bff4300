"""A data set in the Hub's layout, read from a local folder by the code that reads the Hub."""

from __future__ import annotations

import pytest
from datasets import ClassLabel, Dataset, Features, Value

import mtl
from mtl.data.sources import load_splits
from mtl.errors import DataError


@pytest.fixture
def hub_folder(tmp_path):
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=["negative", "positive"])})
    for split, labels in {"train": [0, 1, 1], "validation": [1, 0]}.items():
        rows = {"sentence": [f"text {split} {number}" for number in range(len(labels))], "label": labels}
        Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "set" / "data" / f"{split}-00000-of-00001.parquet")
    return tmp_path / "set"


def task(**data):
    return mtl.Task(name="sst", kind="classification", columns={"text": "sentence"}, data=data)


def test_splits_and_class_names_come_from_the_data_set(hub_folder):
    declared = task(hub=str(hub_folder), splits={"train": "train", "test": "validation"})
    rows = load_splits(declared, {"text": True, "label": True}, hub_folder)
    assert list(rows["test"]["label"]) == ["positive", "negative"]
    assert list(rows["test"]["text"]) == ["text validation 0", "text validation 1"]
    # No validation split is named: a tenth of train's three rows, but at least one, is cut for it.
    assert (len(rows["train"]), len(rows["validation"])) == (2, 1)


def test_rows_that_stay_on_disk_are_the_same(hub_folder):
    splits = {"train": "train", "test": "validation"}
    found = [
        load_splits(task(hub=str(hub_folder), splits=splits, stream=stream), {"text": True, "label": True}, hub_folder)
        for stream in (True, False)
    ]
    for split in ("train", "validation", "test"):
        ours, theirs = (rows[split] for rows in found)
        assert (ours.on_disk, theirs.on_disk) == (True, False)
        assert {role: list(ours[role]) for role in ours.columns} == {role: list(theirs[role]) for role in theirs.columns}
        assert ours.fingerprint == theirs.fingerprint
    assert {label for rows in found[0].values() for label in rows["label"]} == {"negative", "positive"}


def test_a_data_set_that_cannot_be_reached_is_named(tmp_path):
    with pytest.raises(DataError, match=r"data set 'nobody/nothing' cannot be read"):
        load_splits(task(hub="nobody/nothing"), {"text": True, "label": True}, tmp_path)
