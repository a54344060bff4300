"""Δm by hand."""

from __future__ import annotations

import math

import pytest

from mtl.compare.relative import delta_m


def test_delta_m_by_hand():
    # Accuracy from 0.80 to 0.84 is +5 %; an error from 0.50 to 0.55 is −10 %: the mean is −2.5 %.
    assert delta_m([0.84, 0.55], [0.80, 0.50], [True, False]) == pytest.approx(-0.025)


def test_relative_to_a_negative_base_the_sign_is_that_of_the_gain():
    # A correlation from −0.1 to 0.1 has grown by 0.2, twice the size of where it was.
    assert delta_m([0.1], [-0.1], [True]) == pytest.approx(2.0)


def test_relative_to_nothing_there_is_no_gain():
    assert math.isnan(delta_m([0.5], [0.0], [True]))
    assert math.isnan(delta_m([], [], []))
