"""The experiment file: defaults, overrides, variables, axes and the hash. Mistakes are in test_bad_inputs.py."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from mtl.config import Budget, Choice, load_config, validate
from mtl.errors import ConfigError

LEAST = {"encoder": "minilm", "tasks": ["a", "b"]}


@pytest.fixture
def write(tmp_path):
    def write(text: str, name: str = "my exp.yaml"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_an_encoder_and_tasks_are_enough():
    config = validate(LEAST, "test")
    assert config.encoder.name == "minilm"
    assert (config.strategy.name, config.sampler.name, config.seed) == ("joint", "proportional", 0)


def test_name_and_base_come_from_the_file(write, tmp_path):
    config = load_config(write("encoder: minilm\ntasks: [a]\n"))
    assert config.name == "my-exp"
    assert config.base == tmp_path


def test_an_experiment_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        validate(LEAST, "test").seed = 1


def test_a_number_in_scientific_notation_is_a_number(write):
    # YAML 1.1 reads 5e-5 as a text, for want of a dot.
    config = load_config(write("encoder: minilm\ntasks: [a]\noptimizer: {learning_rate: 5e-5}\n"))
    assert config.optimizer.learning_rate == 5e-5


def test_overrides_reach_inner_keys(write):
    path = write("encoder: minilm\ntasks: [a]\nstrategy: joint\n")
    config = load_config(path, ["seed=7", "encoder.pooling=cls", "strategy.weighting=dwa", "budget.epochs=0.5", "tasks=[b, c]"])
    assert config.seed == 7
    assert (config.encoder.name, config.encoder.pooling) == ("minilm", "cls")
    assert (config.strategy.name, config.strategy.options) == ("joint", {"weighting": "dwa"})
    assert config.budget.epochs == 0.5
    assert config.tasks == ("b", "c")


def test_variables_come_from_the_environment(write, monkeypatch):
    monkeypatch.setenv("MTL_TEST_ENCODER", "minilm")
    monkeypatch.delenv("MTL_TEST_TASK", raising=False)
    path = write("encoder: ${MTL_TEST_ENCODER}\ntasks: ['${MTL_TEST_TASK:-a}/x']\n")
    config = load_config(path)
    assert config.encoder.name == "minilm"
    assert config.tasks == ("a/x",)
    monkeypatch.delenv("MTL_TEST_ENCODER")
    with pytest.raises(ConfigError, match="the environment variable MTL_TEST_ENCODER is not set"):
        load_config(path)


def test_unknown_keys_are_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"test: sedd: unknown key\. Did you mean 'seed'\?"):
        validate({**LEAST, "sedd": 1}, "test")


def test_the_budget_in_examples_by_hand():
    sizes = {"a": 100, "b": 20}
    assert Budget(epochs=1.5).examples(sizes) == 180  # 1.5 · 120
    assert Budget(examples_per_task=50).examples(sizes) == 100  # 50 · 2
    assert Budget(epochs=0.001).examples(sizes) == 1  # never nothing


@pytest.mark.parametrize("budget", [{}, {"epochs": 1, "examples_per_task": 1}])
def test_a_budget_is_one_of_two(budget):
    with pytest.raises(ConfigError, match="give either epochs or examples_per_task"):
        validate({**LEAST, "budget": budget}, "test")


def test_a_model_gets_its_share_of_passes_and_seconds():
    assert Budget(epochs=1, passes=100, seconds=60).limits(0.25) == {"passes": 25, "seconds": 15}
    assert Budget(epochs=1).limits(0.25) == {}


def test_axes_give_every_combination_in_order():
    values = {**LEAST, "compare": {"strategy": ["single", {"name": "joint", "weighting": "dwa"}], "seed": [1, 2]}}
    cells = validate(values, "test").cells()
    assert [(config.strategy.name, config.seed) for _, config in cells] == [
        ("single", 1),
        ("single", 2),
        ("joint", 1),
        ("joint", 2),
    ]
    assert cells[3][0] == {"strategy": {"name": "joint", "weighting": "dwa"}, "seed": 2}
    assert all(not config.compare for _, config in cells)


def test_an_axis_may_be_an_inner_key():
    values = {**LEAST, "compare": {"strategy.weighting": ["dwa", "static"], "encoder.pooling": ["cls"]}}
    cells = [config for _, config in validate(values, "test").cells()]
    assert [config.strategy.options["weighting"] for config in cells] == ["dwa", "static"]
    assert {config.encoder.pooling for config in cells} == {"cls"}


@pytest.mark.parametrize(("axes", "told"), [({"seed": []}, "axis 'seed' has no values"), ({"seeed": [1]}, "seeed")])
def test_an_axis_that_is_empty_or_no_key_is_refused(axes, told):
    with pytest.raises(ConfigError, match=told):
        validate({**LEAST, "compare": axes}, "test").cells()


def test_the_hash_changes_with_what_may_change_the_result_and_with_nothing_else():
    base = validate(LEAST, "test").hash
    for same in ({"name": "x"}, {"output": "y"}, {"checkpoint": {"every_seconds": 1}}, {"device": "cpu"}, {"threads": 1}):
        assert validate({**LEAST, **same}, "test").hash == base, same
    assert validate({**LEAST, "encoder": {"name": LEAST["encoder"], "checkpointing": True}}, "test").hash == base
    other = [{"seed": 1}, {"tasks": ["a"]}, {"strategy": "single"}, {"batch": {"size": 8}}, {"encoder": "other"}, {"tf32": True}]
    hashes = {validate({**LEAST, **change}, "test").hash for change in other}
    assert len(hashes | {base}) == 7


def test_a_choice_keeps_its_options_apart():
    assert Choice.model_validate("dwa").options == {}
    assert Choice.model_validate({"name": "dwa", "temperature": 2}).options == {"temperature": 2}


def test_an_option_can_be_set_on_a_default_that_the_file_does_not_mention(tmp_path):
    path = tmp_path / "short.yaml"
    path.write_text("encoder: minilm\ntasks: [helpdesk/intent]\n")
    config = load_config(path, ["strategy.weighting=dwa", "sampler.cap=100"])
    assert (config.strategy.name, config.strategy.options) == ("joint", {"weighting": "dwa"})
    assert (config.sampler.name, config.sampler.options) == ("proportional", {"cap": 100})
