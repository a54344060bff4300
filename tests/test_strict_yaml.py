"""YAML that refuses a key written twice, with errors of one line."""

import pytest

from mtl.errors import ConfigError
from mtl.strict_yaml import read_file, read_value


def test_values_are_read_as_yaml_reads_them():
    assert read_value("[1, a, 2.0e-3, null]", "--set x") == [1, "a", 0.002, None]


def test_a_key_that_is_there_twice_is_named_with_its_line(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text("seed: 1\nname: a\nseed: 2\n")
    with pytest.raises(ConfigError, match=r"twice\.yaml: not valid YAML: line 3, column 1: the key 'seed' is there twice\."):
        read_file(path)


def test_merged_keys_are_not_taken_for_repetitions(tmp_path):
    path = tmp_path / "merge.yaml"
    path.write_text("a: &a {x: 1}\nb: &b {y: 2}\nc:\n  <<: *a\n  <<: *b\n")
    assert read_file(path)["c"] == {"x": 1, "y": 2}


def test_a_value_that_is_no_yaml_names_where_it_was_given():
    with pytest.raises(ConfigError, match=r"--set penalty=\[: the value is not valid YAML"):
        read_value("[", "--set penalty=[")
