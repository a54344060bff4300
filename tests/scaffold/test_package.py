from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mtl.cli import main
from mtl.errors import ConfigError, DataError
from mtl.plugins import load_plugins
from mtl.scaffold.look import Look, propose
from mtl.scaffold.package import new_part, new_task
from mtl_tasks.classification import Classification
from mtl_tasks.generation import Generation
from mtl_tasks.pair_classification import PairClassification
from mtl_tasks.question_answering import QuestionAnswering
from mtl_tasks.regression import Regression
from mtl_tasks.token_classification import TokenClassification

TICKETS = "message,queue,id\n" + "".join(
    f"the {thing} is {state},{queue},{number}{thing}\n"
    for number in range(8)
    for thing, state, queue in (("bill", "wrong", "billing"), ("parcel", "late", "delivery"), ("phone", "broken", "repair"))
)


def run_tests_of(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a package's own tests as its author would, without installing it."""
    paths = [str(folder), *sys.path]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.fixture
def tickets(tmp_path):
    path = tmp_path / "tickets.csv"
    path.write_text(TICKETS)
    return path


def test_a_task_of_a_file_is_a_package_that_passes_its_own_tests(tickets, tmp_path):
    written = new_task("acme/queue", "classification", tickets, tmp_path / "made", load_plugins())
    assert written.folder == tmp_path / "made" / "mtl-acme-queue"
    assert (written.folder / "mtl_acme_queue" / "data" / "tickets.csv").read_text() == TICKETS
    done = run_tests_of(written.folder)
    assert done.returncode == 0, done.stdout
    text = "\n".join(written.lines)
    assert "24 rows, columns message, queue, id" in text
    assert "text is 'message', label is 'queue'" in text
    assert "3 names, of which most often billing 8" in text


PARTS = ["kind", "strategy", "sampler", "weighting", "aggregation", "adaptation", "tracker"]


@pytest.mark.parametrize("what", PARTS)
def test_what_is_to_be_changed_passes_its_own_tests_too(what, tmp_path):
    written = new_part(what, "acme/part", tmp_path)
    done = run_tests_of(written.folder)
    assert done.returncode == 0, done.stdout


def test_a_written_package_is_formatted(tickets, tmp_path):
    for what in PARTS:
        new_part(what, what, tmp_path)
    new_task("queue", "classification", tickets, tmp_path, load_plugins())
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "E,F,W,I", "--line-length", "130", str(tmp_path)]
    done = subprocess.run(ruff, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("kind", "columns", "mapping"),
    [
        (Classification, {"id": ["a", "b"], "words": ["a long text", "another text"], "class": ["x", "x"]}, ("words", "class")),
        (Regression, {"stars": [1.0, 2.5], "review": ["a long text", "another text"]}, ("review", "stars")),
        (
            Generation,
            {"german": ["ein Text", "noch einer"], "english": ["a longer text", "one more text"]},
            ("english", "german"),
        ),
        (PairClassification, {"text": ["a", "b"], "other": ["aa b", "bb a"], "same": [True, True]}, ("text", "other", "same")),
        (PairClassification, {"claim": ["a", "b"], "proof": ["aa b", "bb a"], "same": [True, True]}, ("claim", "proof", "same")),
        (TokenClassification, {"spans": [[]], "text": ["a b"], "id": [["x"]]}, ("text", "spans")),
        (TokenClassification, {"words": [["a", "b"]], "tags": [["O", "B-x"]]}, ("words", "tags")),
    ],
)
def test_columns_are_proposed_for_roles(kind, columns, mapping):
    found = propose(Look(Path("rows.json"), columns), kind)
    assert tuple(found.values()) == mapping


def test_columns_of_the_roles_names_are_taken_first():
    columns = {"question": ["why"], "context": ["a long text"], "answers": [[{"text": "text", "start": 7}]], "title": ["x"]}
    assert propose(Look(Path("rows.json"), columns), QuestionAnswering) == {
        name: name for name in list(columns)[1::-1] + ["answers"]
    }


def test_a_file_that_lacks_a_role_is_named(tmp_path):
    path = tmp_path / "words.csv"
    path.write_text("words\nhello\n")
    with pytest.raises(DataError, match=r"words.csv: no column is like 'label' of this kind. It has: words. Rename one"):
        new_task("acme", "classification", path, tmp_path / "made", load_plugins())


def test_empty_repeated_and_uneven_rows_are_told():
    columns = {"text": ["a b"] * 30 + ["  "], "label": ["x"] * 30 + ["y"]}
    lines = " ".join(Look(Path("rows.csv"), columns).lines({"text": "text", "label": "label"}))
    assert "'text' is empty in 1 rows" in lines
    assert "29 rows are there more than once" in lines
    assert "far from even (1 to 30 rows)" in lines


def test_a_folder_that_is_there_is_not_written_over(tmp_path):
    new_part("kind", "acme", tmp_path)
    with pytest.raises(ConfigError, match="mtl-acme is there already"):
        new_part("kind", "acme", tmp_path)


@pytest.mark.parametrize("name", ["Acme", "my kind", "-x", "a//b"])
def test_a_name_that_no_package_can_have_is_refused(name, tmp_path):
    with pytest.raises(ConfigError, match="write small letters and digits"):
        new_part("kind", name, tmp_path)


def test_the_command_says_what_is_next(monkeypatch, capsys, tickets, tmp_path):
    arguments = ["new", "task", "acme", "--data", str(tickets), "--output", str(tmp_path / "made")]
    monkeypatch.setattr(sys, "argv", ["mtl", *arguments])
    main()
    assert "Next: pip install -e" in capsys.readouterr().out


def test_a_task_needs_a_file_and_other_things_a_template(fails):
    fails("new", "task", "acme", pieces=("--data", "file of rows"))
    fails("new", "protocol", "acme", pieces=("no template for 'protocol'", "sampler, strategy, task, tracker, weighting"))
