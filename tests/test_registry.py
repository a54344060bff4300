"""Names, duplicates, near misses and lazily imported things."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod

import pytest

from mtl.errors import DuplicateNameError, MissingExtraError, PluginError, UnknownNameError
from mtl.registry import Registry, must_subclass


class Base(ABC):
    @abstractmethod
    def first(self) -> None: ...

    @abstractmethod
    def second(self) -> None: ...


class Half(Base):
    def second(self) -> None: ...


class Whole(Half):
    def first(self) -> None: ...


@pytest.fixture
def registry():
    return Registry("animal", must_subclass(lambda: Base))


def test_names_come_sorted(registry):
    for name in ("b", "c", "a"):
        registry.register(name, Whole, origin="zoo")
    assert list(registry) == ["a", "b", "c"]
    assert "a" in registry
    assert "d" not in registry


def test_a_registered_thing_comes_back_with_its_origin(registry):
    registry.register("cat", Whole, origin="zoo")
    assert registry.get("cat") is Whole
    assert registry.origin("cat") == "zoo"


def test_an_unknown_name_gets_the_nearest_and_all_names(registry):
    registry.register("giraffe", Whole, origin="zoo")
    registry.register("newt", Whole, origin="zoo")
    with pytest.raises(
        UnknownNameError, match=r"^Unknown animal 'girafe'\. Did you mean 'giraffe'\? Registered: giraffe, newt\.$"
    ):
        registry.get("girafe")


def test_an_unknown_name_that_is_near_to_none_gets_no_guess(registry):
    with pytest.raises(UnknownNameError, match=r"^Unknown animal 'cat'\. Registered: none\.$"):
        registry.get("cat")


def test_a_duplicate_is_refused_and_both_plugins_are_named(registry):
    registry.register("cat", Whole, origin="'zoo' (zoo 1.0)")
    with pytest.raises(
        DuplicateNameError, match=r"animal 'cat' is registered twice, by 'zoo' \(zoo 1.0\) and by 'ark' \(ark 2.0\)"
    ):
        registry.register("cat", Half, origin="'ark' (ark 2.0)")
    assert registry.get("cat") is Whole


@pytest.mark.parametrize("name", ["", None, 3])
def test_a_name_is_a_non_empty_string(registry, name):
    with pytest.raises(PluginError, match=r"zoo registered a animal under .*; a name is a non-empty string"):
        registry.register(name, Whole, origin="zoo")


def test_dropping_an_origin_forgets_its_things_only(registry):
    registry.register("cat", Whole, origin="zoo")
    registry.register("dove", Whole, origin="ark")
    registry.drop_origin("zoo")
    assert list(registry) == ["dove"]
    registry.register("cat", Whole, origin="ark")
    assert registry.origin("cat") == "ark"


def test_a_reference_is_imported_when_it_is_asked_for_and_not_before(registry, tmp_path, monkeypatch):
    (tmp_path / "lazy_animals.py").write_text("from test_registry import Whole\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry.register("cat", "lazy_animals:Whole", origin="zoo")
    assert list(registry) == ["cat"]
    assert "lazy_animals" not in sys.modules
    assert registry.get("cat") is sys.modules["lazy_animals"].Whole
    assert registry.get("cat") is registry.get("cat")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("import no_such_module_at_all", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ("x = 1", "AttributeError: module 'broken_animals' has no attribute 'Cat'"),
        ("def (", "SyntaxError"),
        ("raise RuntimeError('no')", "RuntimeError: no"),
    ],
)
def test_a_reference_that_cannot_be_imported_names_plugin_and_reference(registry, text, fault, tmp_path, monkeypatch):
    (tmp_path / "broken_animals.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_animals", raising=False)
    registry.register("cat", "broken_animals:Cat", origin="zoo")
    with pytest.raises(PluginError, match=f"animal 'cat' of plugin zoo could not be imported from 'broken_animals:Cat': {fault}"):
        registry.get("cat")


def test_a_missing_extra_keeps_its_advice(registry, tmp_path, monkeypatch):
    (tmp_path / "needy_animals.py").write_text(
        "from mtl.errors import MissingExtraError\nraise MissingExtraError('learn2learn', extra='learn2learn')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    registry.register("cat", "needy_animals:Cat", origin="zoo")
    with pytest.raises(MissingExtraError, match=r"pip install 'mtl\[learn2learn\]'"):
        registry.get("cat")


@pytest.mark.parametrize(
    ("thing", "fault"),
    [
        (int, r"int is not a subclass of test_registry\.Base"),
        (Whole(), r"is not a subclass of test_registry\.Base"),
        (Half, "Half does not define first"),
        (Base, "Base does not define first, second"),
    ],
)
def test_a_thing_that_does_not_keep_its_contract_is_refused_by_name(registry, thing, fault):
    registry.register("cat", thing, origin="zoo")
    with pytest.raises(PluginError, match=f"Plugin zoo registered the animal 'cat', but .*{fault}"):
        registry.get("cat")
