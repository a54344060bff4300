"""A cell of a CSV file is what is written there; numbers are where a whole column is written as numbers are."""

from __future__ import annotations

import pytest

import mtl
from mtl.data import delimited
from mtl.data.sources import load_splits
from mtl.data.tables import read_file
from mtl.errors import DataError
from mtl.plugins import load_plugins


def read(path, cells, name="label"):
    path.write_text("\n".join([f"text,{name}", *(f"t{n},{cell}" for n, cell in enumerate(cells))]) + "\n", encoding="utf-8")
    return read_file(path).column(name)


@pytest.mark.parametrize(
    ("cells", "found"),
    [
        (["1", "2", "-3"], [1, 2, -3]),
        (["1", "2.5", ".5", "1e-3", "5."], [1.0, 2.5, 0.5, 0.001, 5.0]),
        (["1", "", "3"], [1.0, None, 3.0]),
        (["001", "002", "1"], ["001", "002", "1"]),
        (["00501", "501"], ["00501", "501"]),
        (["true", "false"], ["true", "false"]),
        (["1", "A10"], ["1", "A10"]),
        (["NA", "None", ""], ["NA", "None", None]),
        (["+1", "1 "], ["+1", "1 "]),
        (["nan", "inf"], ["nan", "inf"]),
    ],
)
def test_a_column_is_of_numbers_if_every_cell_is_written_as_one(tmp_path, cells, found):
    assert read(tmp_path / "a.csv", cells) == found


@pytest.mark.parametrize(("cells", "last"), [(["1"] * 5 + ["007"], "007"), (["1"] * 5 + ["2.5"], 2.5), ([""] * 3 + ["4"], 4.0)])
def test_the_parts_of_a_file_have_one_type(tmp_path, monkeypatch, cells, last):
    monkeypatch.setattr(delimited, "_ROWS", 2)
    found = read(tmp_path / "a.csv", cells)
    assert found[-1] == last
    assert len({type(value) for value in found if value is not None}) == 1


def test_labels_with_zeros_before_them_are_classes_of_their_own(tmp_path):
    read(tmp_path / "a.csv", ["001", "002", "1"] * 12)
    task = mtl.Task(name="zip", kind="classification", data="a.csv")
    kind = load_plugins().kinds.get("classification")(task, [])
    kind.fit(load_splits(task, dict(kind.roles), tmp_path)["train"])
    assert kind.class_names == ("001", "002", "1")


def test_more_cells_than_names_are_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\na,1,2\nb,3,4\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.csv cannot be read: "):
        read_file(path)
