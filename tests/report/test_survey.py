from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from conftest import rating_rows

from mtl.cli import main
from mtl.errors import UnknownNameError
from mtl.plugins import load_plugins
from mtl.report.survey import Survey, near_duplicates
from mtl.task import Task

MOODS = {
    "train": [
        {"text": "The cat sat.", "label": "good"},
        {"text": "the cat sat", "label": "good"},
        {"text": "a dog ran over the long bridge", "label": "bad"},
    ],
    "validation": [{"text": "bob", "label": "good"}],
    "test": [{"text": "THE CAT SAT!", "label": "bad"}, {"text": "a dog ran over the long bridge today", "label": "bad"}],
}


def tables_of(*tasks):
    return {table.title: table for _, tables in Survey(tasks, load_plugins(), Path()).parts() for table in tables}


def task(name="mood", data=MOODS, kind="classification"):
    return Task(name=name, kind=kind, data=data)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_sizes_name_repeated_texts_and_those_that_are_in_train(tmp_path):
    rows = {row[0]: row for row in tables_of(task())["mood: sizes"].rows}
    # rows, repeated, in train; words: least, half, 95 %, most.
    assert rows["train"][1:4] == ["3", "1", ""]
    assert rows["train"][5:] == ["3", "3", "7", "7"]
    assert rows["test"][1:4] == ["2", "0", "1"]


def test_near_duplicates_are_found_in_other_and_in_own_texts():
    texts = ["a dog ran over the long bridge", "a dog ran over the long bridge!", "something else altogether"]
    assert near_duplicates(texts) == 2
    assert near_duplicates(["A dog ran over the long bridge.", "no"], texts) == 1


def test_words_are_counted_in_bins_that_hold_every_split():
    table = tables_of(task())["mood: words"]
    assert table.columns[:4] == ["words", "train", "validation", "test"]
    # Train has 3, 3 and 7 words, validation 1, test 3 and 8.
    assert [sum(int(row[column]) for row in table.rows) for column in (1, 2, 3)] == [3, 1, 2]
    assert {row[1]: row[-1] for row in table.rows} == {"2": "█" * 24, "1": "█" * 12, "0": ""}


def test_labels_are_counted_by_split():
    table = tables_of(task())["mood: label"]
    assert table.columns[:4] == ["label", "train", "validation", "test"]
    assert [row[:4] for row in table.rows] == [["good", "2", "1", "0"], ["bad", "1", "0", "2"]]


def test_numbers_are_shown_by_where_they_lie():
    rows = [{"text": "a", "label": value} for value in (0.0, 1.0, 2.0, 3.0, 4.0)]
    table = tables_of(task("r", {"train": rows, "validation": rows, "test": rows}, "regression"))["r: label"]
    assert table.rows[0] == ["train", "0", "1", "2", "3", "4"]


def test_texts_that_tasks_share_are_counted():
    table = tables_of(task(), task("again"))["Shared texts"]
    assert table.rows == [["mood", "1", "1"], ["again", "1", "1"]]


def test_the_command_shows_tables_and_writes_a_page(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["mtl", "data", "helpdesk/intent", "helpdesk/urgency", "--page", str(tmp_path / "look.md")])
    main()
    assert "helpdesk/intent: sizes" in capsys.readouterr().out
    page = (tmp_path / "look.md").read_text()
    assert "## helpdesk/urgency: label" in page
    assert "## Shared texts" in page


def test_a_page_is_one_file_with_a_part_for_each_task(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(
        sys, "argv", ["mtl", "data", "helpdesk/intent", "helpdesk/urgency", "--page", str(tmp_path / "look.html")]
    )
    main()
    page = (tmp_path / "look.html").read_text(encoding="utf-8")
    assert [name in page for name in ("<h2>helpdesk/intent</h2>", "<h2>helpdesk/urgency</h2>", "<h2>Shared texts</h2>")] == [
        True
    ] * 3
    assert "helpdesk/intent: words" in page
    assert 'class="verdict"' not in page
    assert not re.search(r'(src|href)="https?:', page)


def test_the_tasks_of_an_experiment_are_looked_at_together(monkeypatch, capsys, write_experiment, experiment_values):
    file = write_experiment({**experiment_values, "tasks": [{"name": "rating", "kind": "regression", "data": rating_rows(40)}]})
    monkeypatch.setattr(sys, "argv", ["mtl", "data", str(file)])
    main()
    assert "rating: sizes" in capsys.readouterr().out


def test_a_page_of_another_form_is_refused(fails):
    fails("data", "helpdesk/intent", "--page", "look.pdf", pieces=("--page look.pdf", ".html"))


def test_rows_without_text_are_counted():
    data = {"train": MOODS["train"], "validation": MOODS["validation"], "test": [*MOODS["test"], {"text": " ", "label": "bad"}]}
    [note, *_] = tables_of(task(data=data))["mood: sizes"].notes
    assert note.startswith("Rows without text: 1 in test.")


def test_an_unknown_task_is_refused_with_the_nearest(fails):
    fails("data", "helpdesk/inent", pieces=("task 'helpdesk/inent'", "'helpdesk/intent'"))
    with pytest.raises(UnknownNameError, match="kind 'clasification'"):
        tables_of(task(kind="clasification"))


def test_labels_that_train_has_not_are_shown_and_counted():
    data = {**MOODS, "test": [{"text": "bob", "label": "odd"}, {"text": "anna", "label": "odd"}]}
    table = tables_of(task(data=data))["mood: label"]
    assert table.rows[-1][:4] == ["odd", "0", "0", "2"]
    assert table.notes == ["1 of them are in no row of train."]


def test_of_spans_the_types_are_counted_and_not_the_places():
    rows = [{"text": f"anna flew to paris {n}", "spans": [{"start": 0, "end": 4, "type": "person"}]} for n in range(4)]
    table = tables_of(task("ner", {"train": rows, "validation": rows, "test": rows}, "token-classification"))["ner: spans"]
    assert [row[0] for row in table.rows] == ["person"]
