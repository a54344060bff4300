from __future__ import annotations

import json
import socket
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import mtl
from mtl.cli import main
from mtl.errors import UnknownNameError
from mtl.plugins import load_plugins
from mtl.testing import assert_keeps_contract, check
from mtl.testing.contract import Broken, Unsaid, run
from mtl_plugins.lora import LoRA
from mtl_plugins.uniform import Uniform
from mtl_tasks.ranking import Ranking

BROKEN = Path(__file__).with_name("broken.py")
FAILURES = {
    "SumKind": ("the loss is a mean per predicted unit", "Divide by what units"),
    "NaNKind": ("the loss is finite", "It is nan. Look for a logarithm of 0"),
    "DetachedKind": ("the gradient reaches head and encoder", "The encoder has none. Do not detach"),
    "SpareKind": ("the gradient reaches head and encoder", "The head's 'spare.weight' has none"),
    "ForgetfulKind": ("predictions survive saving and loading", "Let state give all that fit"),
    "ShiftedKind": ("decoding inverts encoding", "Does decode"),
    "UpsideDownKind": ("metrics know their direction", "hits is 1 after learning"),
    "UnstableKind": ("labels are stable", "of the same rows in another order"),
    "RandomKind": ("is deterministic under a seed", "The column 'noise' is another each time"),
    "SqueezedKind": ("works on a batch of one row", "gives 0 answers for one row"),
    "OnlineKind": ("does not touch the network", "It was reached for"),
    "LossyKind": ("the loss falls when a few rows are learned by heart", "after 300 steps on 8 rows"),
    "SampleLess": ("has rows to be checked with", "Give the kind a classmethod sample()"),
    "Zeroing": ("a head without rows in a draw keeps no gradient", "Leave its .grad at None"),
    "Ascending": ("the loss falls when it learns from one draw again and again", "Has the gradient the right sign?"),
    "Silent": ("makes a step", "reports no loss"),
    "Forgotten": ("gives every task a share", "['large', 'middle', 'small'] it gives shares to ['large', 'middle']"),
    "Dicing": ("says the same when it is asked again", "Draw nothing"),
    "Squaring": ("is linear in the loss", "A loss of 1 counts 2 times and one of 2 4 times"),
    "Drifting": ("its state survives saving and loading", "Let state_dict() give all"),
    "Boasting": ("tells the weights that it has used", "Tell those it was made with"),
    "Spoiling": ("leaves the tasks' gradients as they are", "in place"),
    "Peeking": ("does not look at the queries", "Set transductive = True"),
    "Moving": ("leaves the encoder as it is", "Move copies"),
}
_BUNDLED = load_plugins()
_PARTS = {*_BUNDLED.weightings, *_BUNDLED.aggregations, *_BUNDLED.adaptations} - {*_BUNDLED.strategies, "nash-mtl"}
_needs_ecos = pytest.mark.skipif(find_spec("ecos") is None, reason="ecos has no wheel for Python 3.13")


@pytest.fixture(scope="module")
def broken():
    return load_plugins([str(BROKEN)])


@pytest.mark.parametrize("name", FAILURES)
def test_a_broken_plugin_fails_with_the_line_that_says_what_is_wrong(name, broken):
    check_name, advice = FAILURES[name]
    failures = {line.check: line.failure for line in check(name, broken) if line.failure}
    assert check_name in failures
    assert advice in failures[check_name]


@pytest.mark.parametrize(
    "name",
    [*_BUNDLED.kinds, *_BUNDLED.strategies, *_BUNDLED.samplers, *sorted(_PARTS), pytest.param("nash-mtl", marks=_needs_ecos)],
)
def test_what_is_bundled_keeps_its_contract(name):
    assert_keeps_contract(name, _BUNDLED)


@pytest.mark.parametrize("name", ["helpdesk/intent", "helpdesk/urgency", "helpdesk/entities", "helpdesk/similarity"])
def test_bundled_tasks_keep_the_contract_on_their_own_rows(name):
    assert_keeps_contract(name, _BUNDLED)


def test_what_has_no_checks_is_said():
    class Brings:
        @mtl.hookimpl
        def mtl_register_adapters(self, register):
            register("gate", LoRA)

        @mtl.hookimpl
        def mtl_register_samplers(self, register):
            register("even", Uniform)

    plugins = load_plugins()
    plugins.add("gates", "tests", Brings)
    lines = [str(line) for line in check("gates", plugins)]
    assert lines[0] == "skip  adapter 'gate': keeps its contract. There are no checks of adapters."
    assert "pass  sampler 'even': gives every task a share" in lines


def test_all_rows_of_a_task_are_read_and_those_that_may_be_left_out_are():
    good = [{"text": f"a {mood} day {number}", "label": mood} for number in range(4) for mood in ("good", "bad")]
    data = {"train": [*good, {"text": "", "label": "bad"}], "validation": good, "test": [*good, {"text": "  ", "label": "bad"}]}

    class Brings:
        @mtl.hookimpl
        def mtl_register_tasks(self, register):
            register(mtl.Task(name="mood", kind="classification", data=data | {"train": good}, columns={"text": "text"}))
            register(mtl.Task(name="mood/kept", kind="classification", data=data, bad_rows="drop"))

    plugins = load_plugins()
    plugins.add("moods", "tests", Brings)
    [line] = [line for line in check("mood", plugins) if line.failure]
    assert line.check == "reads its rows"
    assert "rows of test, row 9: column 'text' is empty" in line.failure
    assert "bad_rows: drop" in line.failure
    assert not any(line.failure for line in check("mood/kept", plugins))


def test_what_has_that_name_nowhere_is_an_error():
    with pytest.raises(UnknownNameError, match=r"adaptation or plugin 'ordnal'. Did you mean 'ordinal'\?"):
        list(check("ordnal", _BUNDLED))


def test_a_failed_contract_is_an_assertion_with_a_line_for_each_failure(broken):
    with pytest.raises(
        AssertionError, match=r"^fail  kind 'SumKind': the loss is a mean per predicted unit\. The loss of 8 rows"
    ):
        assert_keeps_contract("SumKind", broken)


def test_after_a_first_check_that_fails_the_others_are_not_made():
    def fail():
        raise Broken("No rows.")

    lines = list(run("kind 'x'", [("reads", fail), ("learns", fail)]))
    assert [line.check for line in lines] == ["reads", "does not touch the network"][: len(lines)]
    assert str(lines[0]) == "fail  kind 'x': reads. No rows."


def test_whatever_is_raised_becomes_a_line():
    lines = list(run("kind 'x'", [("reads", lambda: None), ("learns", lambda: 1 / 0)]))
    assert [bool(line.failure) for line in lines] == [False, True, False]
    assert lines[1].failure == "It raises ZeroDivisionError: division by zero"


def test_a_check_that_cannot_tell_is_skipped_with_its_reason():
    def cannot():
        raise Unsaid("Nothing was learned.")

    (line, _) = run("kind 'x'", [("learns", cannot)])
    assert str(line) == "skip  kind 'x': learns. Nothing was learned."


def test_a_loss_that_couples_rows_is_not_said_to_be_a_mean():
    task = mtl.Task(name="reply", kind="ranking", data=Ranking.sample()["data"], options={"negatives": "batch"})
    plugins = load_plugins()
    plugins.tasks.register("reply", task, origin="a test")
    lines = {line.check: str(line) for line in check("reply", plugins)}
    assert lines["the loss is a mean per predicted unit"].startswith("skip  task 'reply'")
    assert not any(text.startswith("fail") for text in lines.values())


def test_the_network_is_there_again_after_a_check():
    before = socket.socket.connect
    list(run("kind 'x'", [("reads", lambda: None)]))
    assert socket.socket.connect is before


def test_the_command_prints_a_line_each_and_exits_with_1_if_one_fails(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mtl", "check", "regression"])
    main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12
    assert all(line.startswith("pass  kind 'regression': ") for line in lines)
    monkeypatch.setattr(sys, "argv", ["mtl", "check", "SumKind", "--json", "--plugin", str(BROKEN)])
    with pytest.raises(SystemExit, match="1"):
        main()
    found = json.loads(capsys.readouterr().out)
    assert [line["check"] for line in found if line["failure"]] == ["the loss is a mean per predicted unit"]
