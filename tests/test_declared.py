"""A declaration that stands for one task of each domain."""

from __future__ import annotations

import pytest

from mtl.config import load_config, validate
from mtl.errors import ConfigError

DECLARED = {"name": "{domain}", "kind": "classification", "data": "rows.jsonl", "split_by": {"domain": ["books", "films"]}}


def tasks(*declared):
    return validate({"encoder": "minilm", "tasks": list(declared)}, "here").tasks


def test_a_task_for_each_value_has_its_rows_and_its_name():
    found = tasks(DECLARED, "helpdesk/intent")
    assert [task if isinstance(task, str) else task.name for task in found] == ["books", "films", "helpdesk/intent"]
    assert [task.where for task in found[:2]] == [{"domain": ("books",)}, {"domain": ("films",)}]
    alone = {key: value for key, value in DECLARED.items() if key != "split_by"}
    assert found[:2] == tasks(*({**alone, "name": name, "where": {"domain": [name]}} for name in ("books", "films")))


def test_without_a_place_in_the_name_the_value_comes_behind_it():
    found = tasks({**DECLARED, "name": "reviews", "where": {"stars": ["1", "5"]}})
    assert [task.name for task in found] == ["reviews/books", "reviews/films"]
    assert found[0].where == {"stars": ("1", "5"), "domain": ("books",)}


def test_values_that_are_numbers_are_read_as_texts():
    found = tasks({**DECLARED, "name": "year-{year}", "split_by": {"year": [2019, 2020]}})
    assert [task.name for task in found] == ["year-2019", "year-2020"]


def test_an_experiment_file_and_its_grid_have_the_tasks(tmp_path):
    path = tmp_path / "one.yaml"
    path.write_text(
        "encoder: minilm\ncompare: {seed: [0, 1]}\ntasks:\n  - name: '{domain}'\n    kind: classification\n    data: rows.jsonl\n"
        "    split_by: {domain: [books, films]}\n"
    )
    config = load_config(path, ["sources=[books]"])
    assert [task.name for task in config.tasks] == ["books", "films"]
    assert all(cell.tasks == config.tasks for _, cell in config.cells())


@pytest.mark.parametrize(
    "given", ["domain", {}, {"domain": []}, {"domain": "books"}, {"domain": ["books", "books"]}, {"a": ["b"], "c": ["d"]}]
)
def test_what_names_no_column_with_values_is_refused(given):
    with pytest.raises(ConfigError, match=r"tasks: split_by of '\{domain\}' must be one column with a list of its values"):
        tasks({**DECLARED, "split_by": given})


def test_names_that_a_value_makes_impossible_are_refused():
    with pytest.raises(ConfigError, match=r"Task 'sci fi': name: must be letters"):
        tasks({**DECLARED, "split_by": {"domain": ["sci fi"]}})
