from __future__ import annotations

import csv
import gzip
import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

from mtl.data.sources import load_splits
from mtl.data.tables import _named_labels
from mtl.errors import DataError
from mtl.task import Task

ROLES = {"text": True, "label": True}
#: A quote, a separator of both formats, a line break and letters beyond ASCII.
GIVEN = [
    {"text": 'she said "no", twice', "label": "bad"},
    {"text": "tab\there, São Tomé 🙂", "label": "good"},
    {"text": "one\ntwo", "label": "bad"},
]


@pytest.fixture(autouse=True)
def _own_datasets_cache(tmp_path, monkeypatch):
    """Keep the cache of `datasets` out of the user's home."""
    import datasets

    for name in ("HF_DATASETS_CACHE", "DOWNLOADED_DATASETS_PATH", "EXTRACTED_DATASETS_PATH"):
        monkeypatch.setattr(datasets.config, name, tmp_path / "hf" / name)


def write(path, rows):
    """Write rows in the format that the file's name says."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    opener = gzip.open if path.name.endswith(".gz") else open
    with opener(path, "wt", encoding="utf-8", newline="") as stream:
        if name.endswith((".csv", ".tsv")):
            writer = csv.DictWriter(stream, list(rows[0]), delimiter="\t" if name.endswith(".tsv") else ",")
            writer.writeheader()
            writer.writerows(rows)
        elif name.endswith(".jsonl"):
            stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        else:
            json.dump(rows, stream)
    return path


def task_of(data, **values):
    return Task(**{"name": "t", "kind": "classification", "data": data} | values)


def three(rows):
    """The same rows as every split."""
    return {"train": rows, "validation": rows, "test": rows}


def texts(rows):
    return list(rows["text"])


def numbered(count):
    return [{"text": f"text {number}", "label": "ab"[number % 2]} for number in range(count)]


ENDINGS = ["csv", "tsv", "json", "jsonl", "parquet", "csv.gz", "tsv.gz", "json.gz", "jsonl.gz"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_format_gives_the_same_rows(ending, tmp_path):
    write(tmp_path / f"rows.{ending}", GIVEN)
    files = {"train": f"rows.{ending}", "validation": f"rows.{ending}", "test": f"rows.{ending}"}
    rows = load_splits(task_of(files), ROLES, tmp_path)["train"]
    assert [{"text": text, "label": label} for text, label in zip(rows["text"], rows["label"], strict=True)] == GIVEN
    assert rows.where(1) == f"{tmp_path / f'rows.{ending}'}, row 2"


def test_one_path_with_split_in_it_finds_the_files_that_exist(tmp_path):
    write(tmp_path / "rows_train.jsonl", numbered(20))
    write(tmp_path / "rows_test.jsonl.gz", GIVEN)
    rows = load_splits(task_of("rows_{split}.jsonl"), ROLES, tmp_path)
    assert texts(rows["test"]) == [row["text"] for row in GIVEN]
    # There is no validation file: it is cut from train.
    assert sorted(texts(rows["train"]) + texts(rows["validation"])) == sorted(row["text"] for row in numbered(20))


def test_the_plain_file_is_taken_before_the_compressed_one(tmp_path):
    write(tmp_path / "rows.jsonl", GIVEN[:1])
    write(tmp_path / "rows.jsonl.gz", GIVEN)
    rows = load_splits(task_of(dict.fromkeys(("train", "validation", "test"), "rows.jsonl")), ROLES, tmp_path)
    assert len(rows["train"]) == 1


def test_rows_may_be_given_as_lists():
    rows = load_splits(task_of({"train": GIVEN, "validation": GIVEN[:1], "test": GIVEN[1:]}), ROLES, None)
    assert texts(rows["train"]) == [row["text"] for row in GIVEN]
    assert list(rows["test"]["label"]) == ["good", "bad"]
    assert rows["test"].where(0) == "rows of test, row 1"


def test_columns_are_known_by_their_roles():
    given = [{"sentence": row["text"], "label": "unused", "mood": row["label"]} for row in GIVEN]
    task = task_of(three(given), columns={"text": "sentence", "label": "mood"})
    rows = load_splits(task, {**ROLES, "text_pair": False}, None)["train"]
    assert texts(rows) == [row["text"] for row in GIVEN]
    assert list(rows["label"]) == ["bad", "good", "bad"]
    assert "text_pair" not in rows


def test_an_optional_column_is_taken_under_its_own_name():
    given = [{**row, "text_pair": "x"} for row in GIVEN]
    assert "text_pair" in load_splits(task_of(three(given)), {**ROLES, "text_pair": False}, None)["train"]


def test_where_keeps_the_rows_with_one_of_the_values():
    given = [{**row, "year": year, "place": place} for row, year, place in zip(GIVEN, (1, 2, 3), "xyx", strict=True)]
    rows = load_splits(task_of(three(given), where={"place": ("x",)}), ROLES, None)["train"]
    assert texts(rows) == [GIVEN[0]["text"], GIVEN[2]["text"]]
    assert list(rows.numbers) == [1, 3]  # as in the source
    # Numbers are compared as they are written; two conditions must both hold.
    both = task_of(three(given), where={"year": ("2", "3"), "place": ("x",)})
    assert texts(load_splits(both, ROLES, None)["train"]) == [GIVEN[2]["text"]]


def test_max_rows_keeps_the_first_rows_of_a_split():
    task = task_of(three(numbered(9)), max_rows={"train": 4, "test": 20})
    rows = load_splits(task, ROLES, None)
    assert {split: len(part) for split, part in rows.items()} == {"train": 4, "validation": 9, "test": 9}
    assert texts(rows["train"]) == ["text 0", "text 1", "text 2", "text 3"]


def test_missing_splits_are_cut_from_train_the_same_way_every_time():
    rows = load_splits(task_of(numbered(1000)), ROLES, None)
    again = load_splits(task_of(numbered(1000)), ROLES, None)
    assert {split: texts(part) for split, part in rows.items()} == {split: texts(part) for split, part in again.items()}
    everything = [text for part in rows.values() for text in texts(part)]
    assert sorted(everything) == sorted(row["text"] for row in numbered(1000))
    # A tenth of the rows each.
    assert {split: len(part) for split, part in rows.items()} == {"train": 800, "validation": 100, "test": 100}


def test_the_side_of_a_row_does_not_depend_on_the_order_of_the_file():
    rows, turned = (load_splits(task_of(given), ROLES, None) for given in (numbered(500), numbered(500)[::-1]))
    for split in ("train", "validation", "test"):
        assert sorted(texts(rows[split])) == sorted(texts(turned[split]))


def test_equal_rows_fall_on_the_same_side():
    rows = load_splits(task_of(numbered(200) * 2), ROLES, None)
    sides = [set(texts(part)) for part in rows.values()]
    assert sum(map(len, sides)) == 200


def test_only_the_split_that_is_missing_is_cut():
    rows = load_splits(task_of({"train": numbered(300), "test": GIVEN}), ROLES, None)
    assert texts(rows["test"]) == [row["text"] for row in GIVEN]
    assert (len(rows["train"]), len(rows["validation"])) == (270, 30)


def test_the_fingerprint_changes_with_the_rows_and_how_they_were_chosen():
    def fingerprint(data, **values):
        return load_splits(task_of(data, **values), ROLES, None)["train"].fingerprint

    once = fingerprint(three(numbered(9)))
    assert once == fingerprint(three(numbered(9)))
    others = [
        fingerprint(three(numbered(8))),
        fingerprint(three(numbered(9)), max_rows=8),
        fingerprint(three(numbered(9)), where={"label": ("a",)}),
        fingerprint(numbered(30)),
    ]
    assert len({once, *others}) == 5


def test_class_numbers_of_a_hub_data_set_become_names():
    from datasets import ClassLabel, Dataset, Features, Sequence, Value

    names = ClassLabel(names=["negative", "positive"])
    features = Features({"text": Value("string"), "label": names, "tags": Sequence(ClassLabel(names=["O", "B-x"]))})
    columns = {"text": ["a", "b", "c"], "label": [1, 0, -1], "tags": [[0, 1], [], [1]]}
    named = _named_labels(Dataset.from_dict(columns, features=features))
    # −1 is how the Hub marks rows without a label.
    assert list(named["label"]) == ["positive", "negative", None]
    assert list(named["tags"]) == [["O", "B-x"], [], ["B-x"]]
    assert list(named["text"]) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("data", "values", "message"),
    [
        ({"test": GIVEN}, {}, "Task 't' has no train split. Found: test"),
        ({"train": GIVEN, "validation": [], "test": GIVEN}, {}, r"the validation split \(rows of validation\) has no rows"),
        (three(GIVEN), {"columns": {"text": "sentense"}}, "role 'text': rows of train has no column 'sentense'"),
        (three([{"txt": "a", "label": "b"}]), {}, r"has no column 'text'\. Did you mean 'txt'\? It has: txt, label"),
        (three(GIVEN), {"where": {"label": ("god",)}}, r"no row of rows of train has 'label' = 'god'\. Did you mean 'good'\?"),
        (three(GIVEN), {"where": {"lable": ("good",)}}, r"where.* has no column 'lable'\. Did you mean 'label'\?"),
        ([{"text": "a", "label": 1}, {"text": "b", "label": "c"}], {}, "rows of train cannot be read"),
    ],
)
def test_data_that_cannot_serve_are_refused(data, values, message):
    with pytest.raises(DataError, match=message):
        load_splits(task_of(data, **values), ROLES, None)


def test_a_file_that_is_not_there_is_named_with_the_nearest(tmp_path):
    write(tmp_path / "rows.csv", GIVEN)
    with pytest.raises(DataError, match=r"rowz\.csv.*Did you mean 'rows\.csv'\?"):
        load_splits(task_of("rowz.csv"), ROLES, tmp_path)
    with pytest.raises(DataError, match=r"rows_train\.csv"):
        load_splits(task_of("rows_{split}.csv"), ROLES, tmp_path)


def test_a_format_is_told_by_the_ending(tmp_path):
    (tmp_path / "rows.txt").write_text("a")
    with pytest.raises(DataError, match=r"cannot tell the format\. Known endings: \.csv, \.tsv, \.json, \.jsonl, \.parquet"):
        load_splits(task_of("rows.txt"), ROLES, tmp_path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (b'{"text": "a", "label": "b"}\n{"text": "a", \n', "line 2 is not JSON"),
        (b'{"text": "a", "label": "b"}\n{"text": "\xff", "label": "b"}\n', "line 2 is not UTF-8"),
        (b'{"text": "a", "label": "b"}\n{"text": {"x": 1}, "label": "b"}\n', "column 'text' holds .* 1 and .* 2"),
    ],
)
def test_the_first_bad_line_of_a_file_is_named(lines, message, tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(lines)
    with pytest.raises(DataError, match=rf"rows\.jsonl.*{message}"):
        load_splits(task_of("rows.jsonl"), ROLES, tmp_path)


def test_an_empty_file_has_no_rows(tmp_path):
    (tmp_path / "rows.csv").write_bytes(b"")
    with pytest.raises(DataError, match=r"rows\.csv\) has no rows"):
        load_splits(task_of("rows.csv"), ROLES, tmp_path)


def test_a_csv_cell_that_spells_na_or_none_stays_a_text(tmp_path):
    lines = ["text,label", *(f"row {number},{('NA', 'None', 'null')[number % 3]}" for number in range(30))]
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    task = Task(name="t", kind="classification", data=dict.fromkeys(("train", "validation", "test"), "rows.csv"))
    rows = load_splits(task, {"text": True, "label": True}, tmp_path)
    assert set(rows["train"]["label"]) == {"NA", "None", "null"}


REACHING = """
import socket, sys
from pathlib import Path

def refuse(*arguments, **options):
    print("reached")
    raise OSError

socket.socket.connect = socket.getaddrinfo = refuse
import mtl
from mtl.data.sources import load_splits

load_splits(mtl.Task(name="mood", kind="classification", data=sys.argv[1]), {"text": True, "label": True}, Path.cwd())
print("read")
"""


def test_reading_a_local_file_reaches_for_no_network(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"text": "row {number}", "label": "a"}}\n' for number in range(20)))
    surroundings = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    surroundings["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "plugins"), str(ROOT / "tasks")])
    surroundings["HF_HOME"] = str(tmp_path / "hf")
    ended = subprocess.run([sys.executable, "-c", REACHING, path], env=surroundings, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["read"]


# --- several files of one task ---------------------------------------------------------------------------------------------


def domain(name, count, **more):
    return [{"text": f"{name} {number}", "label": f"label {number % 2}", **more} for number in range(count)]


@pytest.mark.parametrize("stream", [False, True])
def test_rows_of_several_files_are_one_after_the_other_and_known_by_their_own_file(tmp_path, stream):
    paths = [
        write(tmp_path / f"{name}.jsonl", domain(name, 3, **more)) for name, more in (("books", {"stars": 5}), ("films", {}))
    ]
    few = write(tmp_path / "few.csv", domain("few", 2))
    files = {"train": [str(path) for path in paths], "validation": str(few), "test": [str(few)]}
    train = load_splits(task_of({"files": files, "stream": stream}), ROLES, tmp_path)["train"]
    assert list(train["text"]) == [f"{name} {number}" for name in ("books", "films") for number in range(3)]
    assert train.where(2) == f"{paths[0]}, row 3"
    assert train.where(4) == f"{paths[1]}, row 2"
    assert train.take([5, 1]).where(0) == f"{paths[1]}, row 3"
    assert train.source == f"{paths[0]} and {paths[1]}"


def test_a_list_of_paths_stands_for_the_files_of_each_split(tmp_path):
    for name in ("books", "films"):
        for split in ("train", "validation", "test"):
            write(tmp_path / f"{name}-{split}.jsonl", domain(f"{name} {split}", 2))
    found = load_splits(task_of([f"{tmp_path}/books-{{split}}.jsonl", f"{tmp_path}/films-{{split}}.jsonl"]), ROLES, tmp_path)
    assert {split: len(rows) for split, rows in found.items()} == {"train": 4, "validation": 4, "test": 4}
    assert found["test"]["text"][2:] == ["films test 0", "films test 1"]
    again = task_of({"train": [f"{tmp_path}/films-train.jsonl"], "test": f"{tmp_path}/books-test.jsonl"})
    assert len(load_splits(again, ROLES, tmp_path)["test"]) == 2


def test_missing_splits_are_cut_from_all_files(tmp_path):
    paths = [str(write(tmp_path / f"{name}.jsonl", domain(name, 40))) for name in ("books", "films")]
    found = load_splits(task_of(paths), ROLES, tmp_path)
    texts = [text for rows in found.values() for text in rows["text"]]
    assert len(texts) == len(set(texts)) == 80
    for rows in found.values():
        for row, text in enumerate(rows["text"]):
            name, number = text.split()
            assert rows.where(row) == f"{tmp_path}/{name}.jsonl, row {int(number) + 1}"


def test_where_reads_rows_of_all_files(tmp_path):
    paths = [str(write(tmp_path / f"{name}.jsonl", domain(name, 30, kind=name[0]))) for name in ("books", "films")]
    found = load_splits(task_of(paths, where={"kind": ["f"]}), ROLES, tmp_path)
    assert all(text.startswith("films") for rows in found.values() for text in rows["text"])
    assert found["train"].where(0).startswith(f"{tmp_path}/films.jsonl, row ")


def test_a_split_that_one_of_the_files_lacks_is_an_error(tmp_path):
    for name in ("books-train", "films-train", "books-test"):
        write(tmp_path / f"{name}.jsonl", domain(name, 2))
    with pytest.raises(DataError, match=r"films-test\.jsonl"):
        load_splits(task_of([f"{tmp_path}/books-{{split}}.jsonl", f"{tmp_path}/films-{{split}}.jsonl"]), ROLES, tmp_path)


def test_a_column_that_is_of_another_type_in_another_file_is_named(tmp_path):
    first = write(tmp_path / "first.jsonl", domain("first", 2))
    second = write(tmp_path / "second.jsonl", [{"text": "a", "label": [1]}])
    with pytest.raises(
        DataError, match=r"column 'label' is .* in .*first\.jsonl and .* in .*second\.jsonl; it must have one type"
    ):
        load_splits(task_of([str(first), str(second)]), ROLES, tmp_path)


def test_a_bad_row_of_a_second_file_is_named_there(tmp_path):
    first = write(tmp_path / "first.jsonl", domain("first", 2))
    second = write(tmp_path / "second.jsonl", [*domain("second", 1), {"text": " ", "label": "label 0"}])
    rows = load_splits(
        task_of({"train": [str(first), str(second)], "validation": str(first), "test": str(first)}), ROLES, tmp_path
    )
    with pytest.raises(DataError, match=r"second\.jsonl, row 2: column 'text' is empty"):
        rows["train"].texts("text")
