"""Plots that tell many tasks, and many strategies, apart."""

import pytest

from mtl.report import plots

NAMES = [f"side {number}" for number in range(10)]


@pytest.fixture
def drawn(monkeypatch):
    """The axes and figures of plots, which are not written."""
    found = []
    monkeypatch.setattr(plots, "_finish", lambda plot, figure, path: found.append(figure) or plot.close(figure))
    return found


def test_lines_of_one_colour_have_different_dashes(drawn, tmp_path):
    plots._curves({name: ([1.0, 2.0], [0.1, 0.2]) for name in NAMES}, "loss", tmp_path / "loss.png")
    looks = [(line.get_color(), line.get_linestyle()) for line in drawn[0].axes[0].get_lines()]
    assert len(set(looks)) == len(NAMES)


def test_bars_of_one_colour_have_different_hatches(drawn, tmp_path):
    plots._bars(["task"], {name: [0.5] for name in NAMES}, "skill", tmp_path / "bars.png")
    looks = [(bar.get_facecolor(), bar.get_hatch()) for bar in drawn[0].axes[0].patches]
    assert len(set(looks)) == len(NAMES)


def test_the_legend_hides_no_bar(drawn, tmp_path):
    plots._bars(["task"], {name: [1.0] for name in NAMES}, "skill", tmp_path / "bars.png")
    (figure,) = drawn
    figure.draw_without_rendering()
    legend, axes = figure.legends[0].get_window_extent(), figure.axes[0].get_window_extent()
    assert legend.y0 >= axes.y1


def test_norms_of_gradients_are_drawn_of_every_task_where_a_step_has_looked_at_them(drawn, tmp_path):
    steps = [
        {"examples": 8, "loss": {"a": 1.0, "b": 1.0}, "weight": {}, "gradients": {"tasks": ["a", "b"], "norms": [3.0, 4.0]}},
        {"examples": 16, "loss": {"a": 1.0}, "weight": {}},
        {"examples": 24, "loss": {"a": 1.0, "b": 1.0}, "weight": {}, "gradients": {"tasks": ["b", "a"], "norms": [None, 5.0]}},
    ]
    plots.plot_curves(steps, tmp_path)
    axes = drawn[-1].axes[0]
    assert axes.get_ylabel() == "norm of the gradient"
    lines = {line.get_label(): [list(map(float, line.get_xdata())), list(line.get_ydata())] for line in axes.get_lines()}
    assert lines == {"a": [[8, 24], [3, 5]], "b": [[8], [4]]}


def test_without_a_look_at_gradients_no_norms_are_drawn(drawn, tmp_path):
    plots.plot_curves([{"examples": 8, "loss": {"a": 1.0}, "weight": {}}], tmp_path)
    assert [figure.axes[0].get_ylabel() for figure in drawn] == ["training loss per unit"]
