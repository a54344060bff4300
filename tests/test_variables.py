"""Variables in an experiment file: the environment's first, those that the file defines when a cell is made."""

import pytest

from mtl.errors import ConfigError
from mtl.variables import expand


def test_variables_are_replaced_at_every_depth():
    assert expand({"a": ["${X}/b", 1], "c": "${Y:-d}"}, "here", {"X": "x"}, {}) == {"a": ["x/b", 1], "c": "d"}


def test_what_the_file_defines_waits_for_the_cell():
    first = expand("${DATA}/${SPLIT}", "here", {"DATA": "d", "SPLIT": "not this"}, {"SPLIT": "split1"})
    assert first == "d/${SPLIT}"
    assert expand(first, "compare", {}, {"SPLIT": "split2"}) == "d/split2"


def test_an_empty_default_is_a_value():
    assert expand("${X:-}", "here", {}, {}) == ""


def test_a_variable_without_a_value_is_named_with_its_place():
    with pytest.raises(ConfigError, match="my.yaml: the environment variable DATA is not set"):
        expand(["${DATA}"], "my.yaml", {}, {})
