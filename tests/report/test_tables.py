"""Tables: figures, differences, spreads and dashes."""

from __future__ import annotations

import io
import math

import pytest

from mtl.compare.bootstrap import estimate
from mtl.compare.columns import Column, columns_of
from mtl.compare.figures import nested, of_targets
from mtl.report.tables import (
    Table,
    budget_table,
    difference,
    figure,
    signed,
    spread,
    task_table,
    transfer_tables,
)


def result(strategy, value=0.5, *, skill=0.0, seed=0, targets=None, tasks=("mood",)):
    about = {
        "metric": "accuracy",
        "higher_is_better": True,
        "value": value,
        "trivial": 0.25,
        "skill": skill,
        "rows": {"train": 8, "validation": 2, "test": 4},
        "examples_seen": 16,
    }
    return {"strategy": strategy, "seed": seed, "tasks": dict.fromkeys(tasks, about), "targets": targets or {}}


def seeds(label, runs):
    """A column of runs that differ in their seed."""
    return Column(label, runs, [("", seed) for seed in range(len(runs))])


def transfer(prototype, **others):
    """Transfer to one target with 5 shots: adaptation → figure of each episode."""
    figures = {name: {"5": values} for name, values in {"prototype": prototype, **others}.items()}
    return {"figures": {"health": figures}, "chosen": {}, "metric": {"health": "accuracy"}}


@pytest.mark.parametrize(("value", "text"), [(0.5, "0.500"), (1 / 3, "0.333"), (-0.25, "−0.250"), (None, "–"), (math.nan, "–")])
def test_a_figure_has_three_decimals_or_is_a_dash(value, text):
    assert figure(value) == text


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([], "–"),
        ([0.5], "0.500"),
        ([0.2, 0.4], "0.300 ±0.141"),  # sd with n − 1: √(0.1² + 0.1²) = 0.1414
        ([1.0, 2.0, 3.0], "2.000 ±1.000"),
        ([math.nan], "–"),
    ],
)
def test_a_spread_is_mean_and_standard_deviation(values, text):
    assert spread(values) == text


@pytest.mark.parametrize(("value", "text"), [(0.1, "+0.100"), (-0.1, "−0.100"), (0.0, "+0.000"), (math.nan, "–")])
def test_a_difference_shows_its_sign(value, text):
    assert signed(value) == text


def test_a_difference_is_that_of_the_means():
    assert difference([0.5, 0.7], [0.4]) == "+0.200"
    assert difference([], [0.4]) == "–"


def test_differences_are_to_single_task_training():
    columns = [Column("single", [result("single", 0.6, skill=0.4)]), Column("joint", [result("joint", 0.5, skill=0.3)])]
    table = task_table(columns)
    assert table.columns == ["task", "metric", "rows", "trivial", "single", "joint", "Δ joint"]
    assert table.rows == [
        ["mood", "accuracy ↑", "4", "0.250", "0.600", "0.500", "−0.100"],
        ["all, mean skill", "skill ↑", "", "0.000", "0.400", "0.300", "−0.100"],
    ]
    assert any("minus single" in note for note in table.notes)


def test_many_methods_are_rows_as_so_many_columns_fit_no_page():
    names = ["single", *(f"joint {number}" for number in range(8))]
    table = task_table([Column(name, [result(name.split()[0], 0.5, skill=0.25)]) for name in names])
    assert table.columns == ["task", "mood", "all, mean skill"]
    assert table.rows[:4] == [
        ["metric", "accuracy ↑", "skill ↑"],
        ["rows", "4", ""],
        ["trivial", "0.250", "0.000"],
        ["single", "0.500", "0.250"],
    ]
    assert [row[0] for row in table.rows[3:]] == [*names, *(f"Δ {name}" for name in names[1:])]


@pytest.mark.parametrize(("columns", "rows", "turned"), [(12, 2, False), (13, 2, True), (13, 12, False), (14, 12, True)])
def test_a_table_is_turned_if_it_is_wider_than_a_page_and_than_long(columns, rows, turned):
    table = Table("Title", [f"c{n}" for n in range(columns)], [[f"{row}.{n}" for n in range(columns)] for row in range(rows)])
    found = table.upright()
    assert (len(found.columns), len(found.rows)) == ((rows + 1, columns - 1) if turned else (columns, rows))
    assert found.rows[1][1] == "0.2" if turned else found is table


def test_without_single_there_are_no_differences():
    table = task_table([Column("joint", [result("joint")])])
    assert table.columns == ["task", "metric", "rows", "trivial", "joint"]
    assert any("One seed" in note for note in table.notes)


def test_runs_that_differ_in_their_seed_are_one_column():
    points = [{"strategy": s, "seed": n} for s in ("single", "joint") for n in (0, 1)]
    columns = columns_of(points, [result(point["strategy"], 0.5 + 0.2 * point["seed"]) for point in points])
    assert [(column.label, len(column.runs)) for column in columns] == [("single", 2), ("joint", 2)]
    table = task_table(columns)
    assert table.rows[0][4:] == ["0.600 ±0.141", "0.600 ±0.141", "+0.000"]
    assert "Mean ± sd over 2 seeds." in table.notes


def test_an_undefined_value_is_a_dash():
    assert task_table([Column("joint", [result("joint", None)])]).rows[0][4] == "–"


def test_a_run_that_trains_nothing_has_no_task_table():
    assert task_table([Column("none", [result("none", tasks=())])]) is None
    assert budget_table([Column("none", [result("none", tasks=())])]) is None


def test_transfer_is_compared_with_the_untouched_encoder():
    none = result("none", targets={"none": transfer([0.4, 0.6])}, tasks=())
    joint = result("joint", targets={"joint": transfer([0.7, 0.9])})
    (table,) = transfer_tables([seeds("none", [none]), seeds("joint", [joint])])
    assert table.columns == ["encoder", "health, 5 shots", "Δ mean"]
    # Of two figures a resample is the lower one twice with probability ¼ and the higher one twice with ¼: the percentiles
    # are the two. Student's t with one degree of freedom stretches that by 12.706 / 1.960 · √2 = 9.168: two episodes say
    # next to nothing. Every difference is 0.3: how far differences vary is not known.
    assert table.rows == [
        ["none", "0.500 ±0.917", ""],
        ["joint", "0.800 ±0.917", "+0.300"],
    ]
    assert any("paired by episode" in note for note in table.notes)


def test_what_does_not_fit_a_terminal_is_a_table_for_each_target_and_one_of_means():
    def both(first, second):
        figures = {name: {"prototype": {str(shots): [value] for shots in (1, 5, 10)}} for name, value in (first, second)}
        return {"figures": figures, "metric": dict.fromkeys(figures, "accuracy")}

    none = result("none", targets={"none": both(("a", 0.4), ("b", 0.6))}, tasks=())
    joint = result("joint", targets={"joint": both(("a", 0.5), ("b", 0.8))})
    tables = transfer_tables([seeds("none", [none]), seeds("joint", [joint])])
    assert [table.title for table in tables] == ["Transfer to a", "Transfer to b", "Transfer to held-out targets: mean of 2"]
    assert tables[0].columns == ["encoder", "1 shot", "5 shots", "10 shots", "Δ mean"]
    assert [row[:4] for row in tables[0].rows] == [["none", "0.400", "0.400", "0.400"], ["joint", "0.500", "0.500", "0.500"]]
    assert [row[1][:5] for row in tables[2].rows] == ["0.500", "0.650"]
    assert tables[2].rows[1][-1][:6] == "+0.150"


@pytest.mark.parametrize(
    ("names", "tables"),
    [
        (("books", "films"), 1),
        (("helpdesk/intent/healthcare", "helpdesk/intent/utilities"), 3),  # a head would be broken within a word
        (("helpdesk/intent/healthcare",), 1),  # nothing to be put apart
    ],
)
def test_targets_are_columns_of_one_table_where_their_names_fit(names, tables):
    def asked(value):
        figures = {name: {"prototype": {"5": [value, value]}} for name in names}
        return {"figures": figures, "metric": dict.fromkeys(names, "accuracy")}

    none = result("none", targets={"none": asked(0.4)}, tasks=())
    joint = result("joint", targets={"joint": asked(0.5)})
    found = transfer_tables([seeds("none", [none]), seeds("joint", [joint])])
    assert len(found) == tables
    assert all(len(row) == len(found[0].columns) for row in found[0].rows)


def test_the_interval_of_a_gain_over_targets_is_of_runs_not_of_targets():
    def asked(*of_targets):
        return {"t": {"figures": {f"t{n}": {"prototype": {"5": figures}} for n, figures in enumerate(of_targets)}}}

    def gain(*targets_of_runs):
        none = [result("none", targets=asked([0.2] * 4, [0.2] * 4), tasks=()) for _ in targets_of_runs]
        joint = [result("joint", targets=asked(*each)) for each in targets_of_runs]
        metric = {f"t{n}": "accuracy" for n in (0, 1)}
        for run in [*none, *joint]:
            run["targets"]["t"]["metric"] = metric
        return transfer_tables([seeds("none", none), seeds("joint", joint)])[0].rows[1][-1]

    # The targets gain 0.1 and 0.5, every episode and every run alike: how far they vary is not known.
    assert gain([[0.3] * 4, [0.7] * 4]) == "+0.300"
    assert gain(*[[[0.3] * 4, [0.7] * 4]] * 3) == "+0.300"
    # Of one run, variances of questions add up: two unsure by h each make h / √2; and one is unsure as it stands.
    one = gain([[0.2, 0.4] * 2, [0.7] * 4])
    two = gain([[0.2, 0.4] * 2, [0.2, 0.4] * 2])
    assert float(two.split("±")[1]) == pytest.approx(float(one.split("±")[1]) * math.sqrt(2), abs=0.001)
    # Of three runs, what counts is how they differ.
    assert float(gain(*[[[figure] * 4, [figure] * 4] for figure in (0.3, 0.4, 0.5)]).split("±")[1]) > 0.1


def test_encoders_that_were_asked_other_targets_are_shown_where_they_were_asked():
    first = result("joint", targets={"joint": transfer([0.5])})
    second = result(
        "joint", targets={"joint": {"figures": {"wealth": {"prototype": {"5": [0.7]}}}, "metric": {"wealth": "accuracy"}}}
    )
    (table,) = transfer_tables([seeds("joint", [first, second])])
    assert table.columns == ["encoder", "health, 5 shots", "wealth, 5 shots"]
    assert table.rows == [["joint", "0.500", "0.700"]]


def test_every_adaptation_is_a_row_of_its_own():
    none = result("none", targets={"none": transfer([0.5], ridge=[0.4])}, tasks=())
    joint = result("joint", targets={"joint": transfer([0.5], ridge=[0.6])})
    (table,) = transfer_tables([seeds("none", [none]), seeds("joint", [joint])])
    assert [row[0] for row in table.rows] == ["none, prototype", "none, ridge", "joint, prototype", "joint, ridge"]
    # Differences are to the untouched encoder with nearest prototypes.
    assert "Δ mean: minus none, prototype, the untouched pretrained encoder, paired by episode." in table.notes
    assert any(note.startswith("UNRELIABLE: 1 seed") for note in table.notes)
    assert [row[-1][:6] for row in table.rows] == ["", "−0.100", "+0.000", "+0.100"]


def test_the_seeds_of_an_encoder_are_one_row():
    runs = [result("joint", targets={"joint": transfer(figures)}, seed=seed) for seed, figures in enumerate([[0.2], [0.4]])]
    assert transfer_tables([seeds("joint", runs)])[0].rows == [["joint", "0.300 ±0.917"]]


def test_a_model_for_each_task_is_a_row_of_its_own():
    single = result("single", targets={"mood": transfer([0.5]), "rating": transfer([0.6])})
    (table,) = transfer_tables([seeds("single", [single])])
    assert [row[0] for row in table.rows] == ["single: mood", "single: rating"]


def test_no_targets_have_no_table():
    assert transfer_tables([seeds("joint", [result("joint")])]) == []


def test_options_that_one_encoder_alone_has_are_told_with_its_name():
    def asked(**options):
        about = transfer([0.5], ridge=[0.6])
        return {"x": {**about, "chosen": {"ridge": {"name": "ridge", **options}, "prototype": {"name": "prototype"}}}}

    none = seeds("none", [result("none", targets=asked(), tasks=())])
    own = seeds("joint", [result("joint", targets=asked(penalty=3))])
    assert "joint, ridge: ridge: penalty 3." in transfer_tables([none, own])[0].notes
    both = seeds("none", [result("none", targets=asked(penalty=3), tasks=())])
    assert "ridge: penalty 3." in transfer_tables([both, own])[0].notes


def grid(strategy, gain=0.0):
    """Three splits of different difficulty, five seeds each."""
    figures = {split: base + gain for split, base in (("a", 0.5), ("b", 0.7), ("c", 0.9))}
    runs = [
        result(strategy, seed=seed, targets={"x": transfer([figures[split] + 0.01 * seed])})
        for split in figures
        for seed in range(5)
    ]
    return [{"define.SPLIT": split, "seed": seed, "strategy": strategy} for split in figures for seed in range(5)], runs


def test_seeds_of_a_split_are_no_units_of_their_own():
    points, runs = (none + joint for none, joint in zip(grid("none"), grid("joint", 0.02), strict=True))
    columns = columns_of(points, runs)
    (table,) = transfer_tables(columns)
    found = {method.label: next(iter(method.figures.values())) for method in of_targets(columns)}
    for label, cell, _ in table.rows:
        by_split = estimate(nested(found[label]))
        assert by_split.units == 3
        assert cell == f"{by_split.mean:.3f} ±{(by_split.high - by_split.low) / 2:.3f}"


def test_where_lower_is_better_less_is_a_gain():
    def asked(value):
        about = transfer([value, value - 0.01])
        return {"x": {**about, "metric": {"health": "mae"}, "higher_is_better": {"health": False}}}

    (table,) = transfer_tables(
        [seeds("none", [result("none", targets=asked(0.5))]), seeds("joint", [result("joint", targets=asked(0.4))])]
    )
    assert table.rows[1][-1] == "+0.100"
    assert "Where lower is better, less counts as a gain." in table.notes


def test_gains_are_over_nearest_prototypes_whatever_was_listed_first():
    def both(ridge, prototype):
        figures = {"ridge": {"5": [ridge]}, "prototype": {"5": [prototype]}}
        return {"x": {**transfer([0.0]), "figures": {"health": figures}}}

    none, joint = (result(name, targets=both(*each)) for name, each in (("none", (0.3, 0.5)), ("joint", (0.6, 0.7))))
    (table,) = transfer_tables([seeds("none", [none]), seeds("joint", [joint])])
    assert [row[-1] for row in table.rows] == ["−0.200", "", "+0.100", "+0.200"]


def test_the_budget_is_what_each_task_has_seen():
    assert budget_table([Column("joint", [result("joint")])]).rows == [["mood", "16"]]


def test_a_table_as_markdown():
    table = Table("Title", ["name", "value"], [["a", "1"]], ["A note."])
    assert table.markdown() == "## Title\n\n| name | value |\n| --- | ---: |\n| a | 1 |\n\nA note.\n"


def test_a_table_on_a_console_shows_every_cell_and_colours_differences():
    from rich.console import Console

    console = Console(record=True, width=100, force_terminal=True, file=io.StringIO())
    Table("Title", ["name", "Δ joint"], [["up", "+0.100"], ["down", "−0.100"]], ["A note."]).show(console)
    text = console.export_text(styles=True)
    assert all(part in text for part in ("Title", "up", "down", "A note."))
    assert "\x1b[32m+0.100" in text  # green
    assert "\x1b[31m−0.100" in text  # red


def test_differences_of_a_row_are_coloured_too():
    from rich.console import Console

    console = Console(record=True, width=100, force_terminal=True, file=io.StringIO())
    Table("Title", ["task", "mood"], [["joint", "+0.900"], ["Δ joint", "+0.100"]]).show(console)
    text = console.export_text(styles=True)
    assert "\x1b[32m+0.100" in text
    assert "\x1b[32m+0.900" not in text
