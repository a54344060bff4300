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
