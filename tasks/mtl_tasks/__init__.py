"""The bundled kinds of task, one a file, and the bundled corpus. This page is their table of contents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mtl


@mtl.hookimpl
def mtl_register_kinds(register: Callable[[str, Any], None]) -> None:
    register("classification", "mtl_tasks.classification:Classification")
    register("generation", "mtl_tasks.generation:Generation")
    register("masked-language-modelling", "mtl_tasks.masked_language_modelling:MaskedLanguageModelling")
    register("multilabel", "mtl_tasks.multilabel:MultiLabel")
    register("ordinal", "mtl_tasks.ordinal:Ordinal")
    register("pair-classification", "mtl_tasks.pair_classification:PairClassification")
    register("question-answering", "mtl_tasks.question_answering:QuestionAnswering")
    register("ranking", "mtl_tasks.ranking:Ranking")
    register("regression", "mtl_tasks.regression:Regression")
    register("relation-extraction", "mtl_tasks.relation_extraction:RelationExtraction")
    register("smlmt", "mtl_tasks.smlmt:SMLMT")
    register("token-classification", "mtl_tasks.token_classification:TokenClassification")


@mtl.hookimpl
def mtl_register_tasks(register: Callable[[mtl.Task], None]) -> None:
    from mtl_tasks.helpdesk import TASKS

    for task in TASKS:
        register(task)


@mtl.hookimpl
def mtl_register_experiments(register: Callable[[str, Path], None]) -> None:
    register("demo", Path(__file__).parent / "helpdesk" / "demo.yaml")
