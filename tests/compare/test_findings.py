"""What a grid has found: by hand, on results that are made up."""

from __future__ import annotations

import math

import numpy as np
import pytest
from grids import points_of, run, task

from mtl.compare.columns import columns_of
from mtl.compare.figures import of_targets, of_tasks
from mtl.compare.findings import check_baseline, find
from mtl.errors import GridError
from mtl.report.findings import (
    deviation_table,
    difference_table,
    level,
    negative_table,
    overall_table,
    percent,
    same_table,
    score_table,
    verdict,
)


def columns(results):
    return columns_of(points_of(results), results)


def trained(strategy, values):
    """A run for each seed, of two tasks: an accuracy and an error."""
    return [
        run(strategy, seed, tasks={"mood": task(up), "rating": task(down, metric="mae", up=False)})
        for seed, (up, down) in enumerate(values)
    ]


SINGLE = trained("single", [(0.80, 0.50), (0.82, 0.50), (0.78, 0.50)])
JOINT = trained("joint", [(0.84, 0.60), (0.861, 0.601), (0.8189, 0.599)])


def test_scores_and_differences_by_hand():
    found = find("Tasks", of_tasks(columns([*SINGLE, *JOINT])), "single")
    mood, rating = found.questions
    assert found.scores[mood, "joint"].mean == pytest.approx((0.84 + 0.861 + 0.8189) / 3)
    # Gains 0.04, 0.041, 0.0389: mean 0.03997. The error has grown by 0.1 in every seed, which is a loss.
    assert found.differences[mood, "joint"].gain.mean == pytest.approx(0.03997, abs=1e-5)
    assert found.differences[rating, "joint"].gain.mean == pytest.approx(-0.1)
    assert found.differences[rating, "joint"].verdict == "worse"
    assert (found.differences[mood, "joint"].wins, found.differences[rating, "joint"].losses) == (3, 3)


def test_delta_m_is_of_each_seed():
    found = find("Tasks", of_tasks(columns([*SINGLE, *JOINT])), "single")
    # Each seed: +5 % (0.04 / 0.80, 0.041 / 0.82, 0.0389 / 0.78 = 0.04987) and −20 %: −7.5 %, −7.5 %, −7.506 %.
    overall = found.overall["joint"]
    assert overall.delta_m.mean == pytest.approx(-0.07502, abs=1e-5)
    assert overall.delta_m.units == 3
    assert overall.verdict == "worse"


def test_standard_deviations_are_of_single_figures():
    found = find("Tasks", of_tasks(columns([*SINGLE, *JOINT])), "single")
    assert deviation_table(found).rows[0] == ["mood", "0.020", "0.021"]
    assert deviation_table(find("Tasks", of_tasks(columns([SINGLE[0], JOINT[0]])), "single")) is None


def test_negative_transfer_is_named():
    found = find("Tasks", of_tasks(columns([*SINGLE, *JOINT])), "single")
    ((question, label, difference),) = found.negative
    assert (question.name, label) == ("rating", "joint")
    assert negative_table(found).rows == [
        ["rating", "joint", "−0.100", "[−0.103, −0.097]", level(difference.p_holm), "holds at 5 %"]
    ]


def test_a_sentence_says_who_is_best_and_how_sure():
    found = find("Tasks", of_tasks(columns([*SINGLE, *JOINT])), "single")
    text = verdict(found)
    assert text.startswith("Tasks: of 1 compared with single, joint has the highest mean relative gain, −7.5 % [−7.8 %, −7.2 %];")
    assert "it is better on 1 of 2 questions, worse on 1, and not told apart on 0. The loss holds at 5 % (p < 0.001" in text


def test_with_one_seed_there_is_no_verdict_and_a_warning():
    found = find("Tasks", of_tasks(columns([SINGLE[0], JOINT[0]])), "single")
    assert "With one seed nothing can be said" in verdict(found)
    table = score_table(found, {})
    assert table.rows[0] == ["mood", "accuracy ↑", "0.800", "0.840"]
    assert any(note.startswith("UNRELIABLE: 1 seed.") for note in table.notes)
    assert math.isnan(found.differences[found.questions[0], "joint"].p_holm)


def test_two_seeds_are_marked_and_three_are_not():
    two = find("Tasks", of_tasks(columns([*SINGLE[:2], *JOINT[:2]])), "single")
    assert any("UNRELIABLE: 2 seeds" in note for note in score_table(two, {}).notes)
    three = find("Tasks", of_tasks(columns([*SINGLE, *JOINT])), "single")
    assert not any("UNRELIABLE" in note for note in score_table(three, {}).notes)


def test_a_missing_run_is_counted_and_the_rest_is_paired():
    results = [*SINGLE, JOINT[0], None, JOINT[2]]
    points = [*points_of(SINGLE), *points_of(JOINT)]
    found = find("Tasks", of_tasks(columns_of(points, results)), "single")
    assert score_table(found, {}).rows[0][3].endswith("(2 of 3)")
    # Seeds 0 and 2 alone: gains 0.04 and 0.0389.
    assert found.differences[found.questions[0], "joint"].gain.mean == pytest.approx(0.03945)


def test_a_broken_budget_is_marked_in_every_table():
    found = find("Tasks", of_tasks(columns([*SINGLE, *JOINT])), "single")
    flagged = {"joint": True}
    for table in (score_table(found, flagged), difference_table(found, flagged), overall_table(found, flagged)):
        assert any("joint ‡" in cell for cell in [*table.columns, *(cell for row in table.rows for cell in row)])
        assert any(note.startswith("‡ out of the common budget") for note in table.notes)


def targets(strategy, shift, groups=("joint",)):
    """Three seeds of two targets and two numbers of shots; the episodes of a seed are as hard for all."""
    found = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        hard = {name: {shots: rng.normal(0.6, 0.1, 20) for shots in ("1", "5")} for name in ("bank", "cards")}
        figures = {
            group: {
                name: {"prototype": {shots: (values + shift + number / 100).tolist() for shots, values in by_shots.items()}}
                for name, by_shots in hard.items()
            }
            for number, group in enumerate(groups)
        }
        found.append(run(strategy, seed, targets=figures))
    return found


def test_transfer_is_paired_by_episode():
    results = [*targets("none", 0.0), *targets("protonet", 0.05)]
    found = find("Transfer", of_targets(columns(results)), "none")
    assert [question.name for question in found.questions] == ["bank, 1 shot", "bank, 5 shots", "cards, 1 shot", "cards, 5 shots"]
    for difference in found.differences.values():
        # Every episode is answered 0.05 better: no spread, though episodes differ by 0.1.
        assert difference.gain.mean == pytest.approx(0.05)
        assert math.isnan(difference.gain.low)
        assert (difference.gain.p, difference.verdict) == (0.25, "unclear")  # three seeds that are alike
    assert found.ranks.names == ("protonet", "none")
    assert found.ranks.ranks == (1.0, 2.0)


def test_a_model_for_each_source_is_a_method_of_its_own():
    found = of_targets(columns(targets("single", 0.0, ("travel", "work"))))
    assert [(method.label, method.group) for method in found] == [("single: travel", "travel"), ("single: work", "work")]


def test_without_a_baseline_nothing_is_compared():
    found = find("Tasks", of_tasks(columns(JOINT)), "single")
    assert found.baseline is None
    assert not found.differences
    assert "nothing is compared" in verdict(found)
    assert difference_table(found, {}) is None


def test_a_baseline_that_is_not_there_is_refused():
    methods = of_tasks(columns([*SINGLE, *JOINT]))
    check_baseline("joint", methods)
    with pytest.raises(
        GridError, match=r"compare\.baseline: there is no 'jiont'\. Did you mean 'joint'\? There are: single, joint\."
    ):
        check_baseline("jiont", methods)


def test_a_cell_with_several_adaptations_is_a_baseline_by_its_first():
    results = [*targets("none", 0.0), *targets("joint", 0.1)]
    for result in results:
        for about in result["targets"].values():
            for by_adaptation in about["figures"].values():
                by_adaptation["soft-k-means"] = next(iter(by_adaptation.values()))
    methods = of_targets(columns(results))
    check_baseline("none", methods)
    labels = [method.label for method in methods]
    assert len(labels) == 4
    assert labels[1] == "none, soft-k-means"
    assert find("Targets", methods, "none").baseline == labels[0]
    assert find("Targets", methods, "none, soft-k-means").baseline == "none, soft-k-means"


def with_adaptations(strategy, shifts, transductive=()):
    """Three seeds, each adaptation a shift that differs a little from seed to seed."""
    found = targets(strategy, 0.0)
    for seed, result in enumerate(found):
        for about in result["targets"].values():
            about["transductive"] = list(transductive)
            about["chosen"] = {"logistic": {"name": "logistic", "C": 3}}
            for by_adaptation in about["figures"].values():
                values = by_adaptation.pop("prototype")
                for name, shift in shifts.items():
                    moved = {shots: [value + shift * (1 + seed / 50) for value in each] for shots, each in values.items()}
                    by_adaptation[name] = moved
    return found


def test_training_is_judged_by_the_same_adaptation_too():
    results = [*with_adaptations("none", {"prototype": 0, "logistic": 0.1})]
    results += with_adaptations("joint", {"prototype": 0.05, "logistic": 0.1})
    found = find("Targets", of_targets(columns(results)), "none")
    # Beside none with prototypes logistic regression has gained; beside none with logistic regression training has not.
    assert found.overall["joint, logistic"].verdict == "better"
    assert set(found.same) == {"joint, logistic"}
    assert found.same["joint, logistic"].delta_m.mean == pytest.approx(0, abs=1e-9)
    assert found.same["joint, logistic"].verdict == "unclear"
    assert [row[0] for row in same_table(found, {}).rows] == ["joint, logistic"]
    assert same_table(find("Targets", of_targets(columns(targets("none", 0.0))), "none"), {}) is None


def test_transductive_methods_are_a_track_of_their_own():
    shifts = {"prototype": 0.05, "logistic": 0.02, "soft-k-means": 0.2}
    results = [*targets("none", 0.0), *with_adaptations("joint", shifts, ["soft-k-means"])]
    found = find("Targets", of_targets(columns(results)), "none")
    text = verdict(found)
    assert "joint, prototype has the highest mean relative gain" in text
    assert "a track of its own, joint, soft-k-means has the highest: +" in text
    notes = score_table(found, {}).notes
    assert any(note.startswith("soft-k-means is transductive") for note in notes)
    assert "logistic: C 3." in notes  # its label does not say so


def test_a_column_of_several_models_is_no_baseline_of_transfer():
    methods = of_targets(columns([*targets("none", 0.0), *targets("single", 0.1, ("travel", "work"))]))
    assert [method.goes_by("single") for method in methods] == [False, False, False]
    assert [method.goes_by("single: work") for method in methods] == [False, False, True]


def test_an_undefined_figure_is_left_out():
    results = [*SINGLE, run("joint", 0, tasks={"mood": task(None)})]
    found = find("Tasks", of_tasks(columns(results)), "single")
    assert [method.label for method in found.methods] == ["single"] or "joint" not in dict(found.scores)


@pytest.mark.parametrize(("p", "text"), [(0.0004, "< 0.001"), (0.0123, "0.012"), (math.nan, "–")])
def test_a_level_in_words(p, text):
    assert level(p) == text


@pytest.mark.parametrize(("share", "text"), [(0.0123, "+1.2 %"), (-0.05, "−5.0 %"), (math.nan, "–")])
def test_a_share_in_words(share, text):
    assert percent(share) == text


def rotated(figures):
    """Points and results of methods on rotations of held-out targets: method → rotation → figure of each episode."""
    points, results = [], []
    for method, by_rotation in figures.items():
        for rotation, values in by_rotation.items():
            targets = {method: {target: {"prototype": {"5": values}} for target in rotation}}
            points.append({"targets.tasks": list(rotation), "strategy": method})
            results.append(run(method, targets=targets))
    return points, results


def test_rotations_of_held_out_targets_are_questions_to_one_method():
    points, results = rotated(
        {
            "none": {("a", "b"): [0.4, 0.5], ("c",): [0.6, 0.7]},
            "joint": {("a", "b"): [0.5, 0.6], ("c",): [0.7, 0.8]},
        }
    )
    methods = of_targets(columns_of(points, results))
    assert [method.label for method in methods] == ["none", "joint"]
    found = find("Transfer", methods, "none")
    assert [question.task for question in found.questions] == ["a", "b", "c"]
    assert all(each.gain.mean == pytest.approx(0.1) for each in found.differences.values())
    assert found.overall["joint"].delta_m.mean == pytest.approx((0.1 / 0.45 + 0.1 / 0.45 + 0.1 / 0.65) / 3)
    assert all(method.planned_for[question] == 1 for method in methods for question in method.figures)


def test_a_target_of_two_rotations_is_paired_by_rotation():
    points, results = rotated(
        {
            "none": {("a", "b"): [0.4], ("a", "c"): [0.8]},
            "joint": {("a", "b"): [0.5], ("a", "c"): [0.7]},
        }
    )
    none, joint = of_targets(columns_of(points, results))
    (question,) = [each for each in none.figures if each.task == "a"]
    assert none.figures[question] == {("a b", 0): [0.4], ("a c", 0): [0.8]}
    assert joint.figures[question] == {("a b", 0): [0.5], ("a c", 0): [0.7]}
    assert none.planned_for[question] == 2
