"""The bundled methods, one a file. This page is their table of contents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mtl

Register = Callable[[str, Any], None]


@mtl.hookimpl
def mtl_register_strategies(register: Register) -> None:
    register("joint", "mtl_plugins.joint:Joint")
    register("none", "mtl_plugins.none:Untouched")
    register("single", "mtl_plugins.single:Single")


@mtl.hookimpl
def mtl_register_weightings(register: Register) -> None:
    register("dwa", "mtl_plugins.dwa:DynamicWeightAverage")
    register("random", "mtl_plugins.random_weighting:RandomWeighting")
    register("static", "mtl_plugins.static:Static")
    register("uncertainty", "mtl_plugins.uncertainty:Uncertainty")


@mtl.hookimpl
def mtl_register_samplers(register: Register) -> None:
    register("annealed", "mtl_plugins.annealed:Annealed")
    register("proportional", "mtl_plugins.proportional:Proportional")
    register("temperature", "mtl_plugins.temperature:Temperature")
    register("uniform", "mtl_plugins.uniform:Uniform")


@mtl.hookimpl
def mtl_register_adaptations(register: Register) -> None:
    register("prototype", "mtl_plugins.prototype:Prototype")


@mtl.hookimpl
def mtl_register_encoders(register: Register) -> None:
    register("minilm", "mtl_plugins.minilm:locate")
