"""A bundle gives back the model that was saved: one encoder, all heads, no code."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import entity_rows, rating_rows, sentiment_rows, splits
from safetensors import safe_open
from torch import nn
from torch.testing import assert_close

import mtl
from mtl.config import EncoderConfig
from mtl.data.sources import load_splits
from mtl.errors import BundleError, DataError, EncoderError, MTLError, UnknownNameError
from mtl.model.bundle import Bundle, load_bundle
from mtl.model.encoder import load_encoder
from mtl.model.multitask import MultiTaskModel
from mtl.model.trained import Trained
from mtl.plugins import load_plugins

TEXTS = ["the cat sat on the mat is good", "bob", "anna flew to paris is bad", "the dog ran from london " * 3]


def make_bundle(encoder_folder: Path, *tasks: mtl.Task) -> Bundle:
    """Put fresh heads on the encoder; with their seeds they give other answers for other texts."""
    plugins = load_plugins()
    config = EncoderConfig(name=str(encoder_folder), max_length=32)
    kinds = {}
    for task in tasks:
        kind = plugins.kinds.get(task.kind)(task, [])
        kind.fit(load_splits(task, dict(kind.roles), Path())["train"])
        kinds[task.name] = kind
    model = MultiTaskModel(load_encoder(config, encoder_folder, attention="sdpa"), kinds, lambda name: len(name))
    return Bundle(model.eval(), config, {"classification": "'mtl_tasks' (bundled with mtl)"})


def tasks() -> list[mtl.Task]:
    return [
        mtl.Task(name="mood", kind="classification", data=splits(sentiment_rows(16))),
        mtl.Task(name="rating", kind="regression", data=splits(rating_rows(16))),
        mtl.Task(name="places", kind="token-classification", data=splits(entity_rows(16))),
    ]


@pytest.fixture(scope="module")
def bundle(encoder_folder):
    return make_bundle(encoder_folder, *tasks())


@pytest.fixture
def saved(bundle, tmp_path):
    bundle.save(tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture
def passes(bundle, monkeypatch):
    """The sizes of the encoder's passes."""
    sizes = []
    forward = bundle.model.encoder.forward

    def count(inputs):
        sizes.append(len(inputs["input_ids"]))
        return forward(inputs)

    monkeypatch.setattr(bundle.model.encoder, "forward", count)
    return sizes


def test_a_loaded_bundle_predicts_the_same(bundle, saved):
    assert load_bundle(saved).predict(TEXTS) == bundle.predict(TEXTS)


def test_vectors_of_texts_are_the_encoder_s_in_the_order_asked(bundle):
    vectors = bundle.embed(TEXTS)
    assert vectors.shape == (4, 32)
    assert vectors.dtype.name == "float32"
    for text, vector in zip(TEXTS, vectors, strict=True):  # padding changes nothing
        assert bundle.embed([text])[0] == pytest.approx(vector, abs=1e-5)
    inputs = bundle.model.encoder.tokenizer.backend(TEXTS[1], return_tensors="pt")
    states = bundle.model.encoder.backbone(**inputs).last_hidden_state
    assert vectors[1] == pytest.approx(states[0].mean(0).detach().numpy(), abs=1e-5)
    assert bundle.embed([]).shape == (0, 32)


def test_a_ranking_can_be_made_from_vectors_alone(encoder_folder):
    rows = [{"text": f"bob {n}", "candidates": ["anna flew", "the cat sat", "very bad"], "label": n % 3} for n in range(8)]
    bundle = make_bundle(encoder_folder, mtl.Task(name="reply", kind="ranking", data=splits(rows)))
    answer = bundle.predict([rows[0]])[0]["reply"]
    vectors = bundle.embed([rows[0]["text"], *rows[0]["candidates"]])
    vectors /= (vectors**2).sum(1, keepdims=True) ** 0.5
    assert answer["ranking"] == (-(vectors[1:] @ vectors[0])).argsort().tolist()


@pytest.mark.parametrize(("texts", "piece"), [(["a cat", " "], "row 2"), ("a cat", "list")])
def test_what_cannot_be_embedded_is_refused(bundle, texts, piece):
    with pytest.raises(DataError, match=piece):
        bundle.embed(texts)


def test_saving_and_loading_twice_changes_no_byte(saved, tmp_path):
    load_bundle(saved).save(tmp_path / "again")
    files = sorted(path.relative_to(saved) for path in saved.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*") if path.is_file())
    for name in files:
        assert (saved / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


@pytest.fixture
def with_sources(bundle, tmp_path):
    """The same bundle, which says what it was trained on."""
    texts = np.array([-(2**63), -1, 2**63 - 1])  # every hash of 64 bits is one
    sources = {"mood": Trained(("bad", "good"), texts), "a/b.c": Trained((), np.array([7]))}
    made = Bundle(bundle.model, bundle.config, bundle.plugins, trained=sources)
    made.save(tmp_path / "sources")
    return tmp_path / "sources"


def test_a_bundle_says_what_it_was_trained_on(with_sources):
    found = load_bundle(with_sources).trained
    assert {name: (source.classes, source.texts.tolist()) for name, source in found.items()} == {
        "mood": (("bad", "good"), [-(2**63), -1, 2**63 - 1]),
        "a/b.c": ((), [7]),
    }


def test_a_bundle_that_does_not_know_what_it_was_trained_on_does_not_say_it(saved):
    assert load_bundle(saved).trained is None
    assert not (saved / "trained.safetensors").exists()


def test_a_bundle_of_an_earlier_version_that_says_nothing_of_it_is_read(with_sources):
    about = json.loads((with_sources / "bundle.json").read_text())
    del about["trained"]
    (with_sources / "bundle.json").write_text(json.dumps(about))
    assert load_bundle(with_sources).trained is None


def test_hashes_of_other_sources_do_not_fit(with_sources):
    about = json.loads((with_sources / "bundle.json").read_text())
    about["trained"]["rating"] = {"classes": [], "texts": 8}
    (with_sources / "bundle.json").write_text(json.dumps(about))
    with pytest.raises(BundleError, match="the bundle is incomplete or its parts do not fit: there is no 'rating'"):
        load_bundle(with_sources)


def test_the_encoder_is_on_disk_once(saved):
    assert [path.relative_to(saved) for path in saved.rglob("model*.safetensors")] == [Path("encoder/model.safetensors")]
    with safe_open(saved / "heads.safetensors", "pt") as heads:
        assert {name.split(".")[0] for name in heads.keys()} == {"mood", "rating", "places"}  # noqa: SIM118
        assert sum(heads.get_tensor(name).numel() for name in heads.keys()) == (  # noqa: SIM118
            33 * 2 + 33 * 1 + 33 * 5  # hidden 32 and a bias: 2 moods, 1 number, O and B and I of 2 types
        )


def test_altering_the_loaded_encoder_alters_every_head_s_answer(saved):
    loaded = load_bundle(saved)
    rows = [{"text": "the cat sat on the mat"}]
    model = loaded.model
    before = _outputs(loaded, rows)
    with torch.no_grad():
        next(iter(model.encoder.parameters())).mul_(3.0)
    after = _outputs(loaded, rows)
    assert set(before) == {"mood", "rating", "places"}
    for name in before:
        assert not torch.equal(before[name], after[name]), name


def _outputs(bundle, rows):
    found = {}
    for name, kind in bundle.model.kinds.items():
        handle = bundle.model.head(name).register_forward_hook(lambda _, __, output, name=name: found.update({name: output}))
        bundle.predict(rows, [name])
        handle.remove()
        assert kind is not None
    return found


def test_the_names_of_the_labels_are_in_it(saved):
    about = json.loads((saved / "bundle.json").read_text())
    states = {entry["task"]["name"]: entry["state"] for entry in about["tasks"]}
    assert states["mood"]["labels"] == ["bad", "good"]
    assert states["places"]["types"] == ["person", "place"]
    assert about["plugins"] == {"classification": "'mtl_tasks' (bundled with mtl)"}
    loaded = load_bundle(saved)
    assert loaded.model.kinds["mood"].labels == ("bad", "good")
    assert loaded.tasks["rating"].kind == "regression"


def test_a_text_is_answered_by_every_head(bundle):
    (answer,) = bundle.predict(["anna flew to paris"])
    assert set(answer) == {"mood", "rating", "places"}
    assert answer["mood"]["label"] in ("bad", "good")
    assert 0.5 <= answer["mood"]["score"] <= 1  # the larger of two probabilities
    assert isinstance(answer["rating"]["value"], float)


def test_rows_may_be_mappings(bundle):
    assert bundle.predict([{"text": text} for text in TEXTS]) == bundle.predict(TEXTS)
    (answer,) = bundle.predict([{"tokens": ["anna", "flew", "to", "paris"]}])
    assert set(answer) == {"places"}  # the other heads need a text


def test_only_the_named_heads_answer(bundle):
    assert [set(answer) for answer in bundle.predict(TEXTS, ["rating"])] == [{"rating"}] * 4
    full = bundle.predict(TEXTS)
    assert bundle.predict(TEXTS, ["rating"]) == [{"rating": answer["rating"]} for answer in full]


def test_all_heads_answer_from_one_encoder_pass(bundle, passes):
    bundle.predict(TEXTS)
    assert passes == [4]


def test_a_batch_size_bounds_the_passes(bundle, passes):
    answers = bundle.predict(TEXTS, batch_size=3)
    assert passes == [3, 1]
    assert len(answers) == 4


def test_a_repeated_text_is_encoded_once(bundle, passes):
    answers = bundle.predict(["bob", "anna", "bob"])
    assert passes == [2]
    assert answers[0] == answers[2]


def test_answers_come_in_the_order_of_the_rows(bundle):
    together = bundle.predict(TEXTS)
    alone = [bundle.predict([text])[0] for text in TEXTS]
    for one, other in zip(together, alone, strict=True):
        assert one["mood"]["label"] == other["mood"]["label"]
        assert one["rating"]["value"] == pytest.approx(other["rating"]["value"], abs=1e-3)
    assert len({answer["rating"]["value"] for answer in together}) == 4  # so that a wrong order would be seen


def test_no_rows_give_no_answers(bundle):
    assert bundle.predict([]) == []


def test_an_unknown_task_is_refused(bundle):
    with pytest.raises(UnknownNameError, match=r"Unknown task 'moood'\. Did you mean 'mood'\?"):
        bundle.predict(TEXTS, ["moood"])


def test_missing_columns_are_named(bundle):
    with pytest.raises(DataError, match=r"row 1: it has 'tokens', which task 'mood' cannot read without 'text'\..*reads 'text'"):
        bundle.predict([{"tokens": ["a"]}], ["mood"])
    with pytest.raises(DataError, match=r"row 2: it has 'texts', which task .* cannot read without 'text'\. Did you mean 'text'"):
        bundle.predict(["a", {"texts": "a"}])


@pytest.mark.parametrize("bad", ["", "  ", None, 7])
def test_a_row_that_cannot_be_read_is_named(bundle, bad):
    with pytest.raises(DataError, match="input, row 2: column 'text'"):
        bundle.predict(["the cat", bad])


def test_the_task_s_own_names_of_torch_s_attributes_are_fine(encoder_folder, tmp_path):
    names = ["type", "items", "training", "a.b", "owner/keys"]
    made = make_bundle(
        encoder_folder, *(mtl.Task(name=name, kind="classification", data=splits(sentiment_rows(16))) for name in names)
    )
    made.save(tmp_path)
    assert set(load_bundle(tmp_path).predict(["the cat"])[0]) == set(names)


class TiedHead(nn.Module):
    """Uses one matrix twice."""

    def __init__(self, hidden: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Linear(hidden, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.second.weight = self.first.weight
        self.last = nn.Linear(hidden, outputs)

    def forward(self, encoded, columns):
        return self.last(self.second(self.first(encoded.pooled)))


def test_a_head_that_ties_weights_comes_back_tied(encoder_folder, tmp_path, monkeypatch):
    from mtl_tasks.classification import Classification

    monkeypatch.setattr(Classification, "head", lambda self, hidden: TiedHead(hidden, len(self.labels)))
    made = make_bundle(encoder_folder, tasks()[0])
    made.save(tmp_path)
    head = load_bundle(tmp_path).model.head("mood")
    assert head.first.weight is head.second.weight
    assert_close(head.first.weight, made.model.head("mood").first.weight, rtol=0, atol=0)


def test_nothing_in_a_bundle_is_code_or_a_pickle(saved):
    for path in saved.rglob("*"):
        if path.is_file():
            assert path.suffix in (".json", ".safetensors", ".txt"), path
            assert not path.read_bytes().startswith((b"\x80", b"PK")), path


def test_loading_runs_nothing_that_lies_in_the_folder(saved):
    ran = "raise AssertionError('code of a bundle was run')"
    for name in ("modeling.py", "encoder/modeling_bert.py", "encoder/tokenization.py", "__init__.py"):
        (saved / name).write_text(ran)
    settings = json.loads((saved / "encoder/config.json").read_text())
    settings["auto_map"] = {"AutoConfig": "modeling.Config", "AutoModel": "modeling_bert.Model"}
    (saved / "encoder/config.json").write_text(json.dumps(settings))
    before = set(sys.modules)
    load_bundle(saved).predict(["the cat"])
    assert not [
        name
        for name in set(sys.modules) - before
        if getattr(sys.modules[name], "__file__", "") and str(saved) in str(sys.modules[name].__file__)
    ]


def test_weights_as_a_pickle_are_not_taken(saved):
    torch.save({}, saved / "encoder" / "pytorch_model.bin")
    (saved / "encoder" / "model.safetensors").unlink()
    with pytest.raises(EncoderError, match="cannot be loaded from the folder"):
        load_bundle(saved)


def test_a_folder_without_bundle_json_is_no_bundle(tmp_path):
    with pytest.raises(BundleError, match=r"is not a bundle: there is no bundle\.json in it"):
        load_bundle(tmp_path)


def test_a_bundle_that_is_written_over_is_none_until_the_new_one_is_whole(bundle, tmp_path, monkeypatch):
    folder = tmp_path / "made"
    bundle.save(folder)
    (folder / "practice.safetensors").write_text("of the old one")

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mtl.model.bundle.save_encoder", stop)
        with pytest.raises(KeyboardInterrupt):
            bundle.save(folder)
    with pytest.raises(BundleError, match="is not a bundle"):
        load_bundle(folder)
    bundle.save(folder)
    assert load_bundle(folder).predict(["the cat"]) == bundle.predict(["the cat"])
    assert not (folder / "practice.safetensors").exists()


def test_a_run_with_one_bundle_stands_for_it(saved):
    assert load_bundle(saved.parent).tasks.keys() == {"mood", "rating", "places"}


def test_of_several_bundles_one_must_be_named(bundle, tmp_path):
    bundle.save(tmp_path / "a")
    bundle.save(tmp_path / "b")
    with pytest.raises(BundleError, match=r"has 2 bundles; name one of: .*a, .*b"):
        load_bundle(tmp_path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"format": 99}', "format 99; this version reads format 3"),
        ("{}", "format None; this version reads format 3"),
        ("[]", "this version reads format 3"),
        ('{"format": 2', "cannot be read"),
        ("", "cannot be read"),
        ('{"format": 3}', "incomplete or its parts do not fit"),
    ],
)
def test_a_bundle_json_that_is_not_ours_is_refused(tmp_path, content, told):
    (tmp_path / "bundle.json").write_text(content)
    with pytest.raises(BundleError, match=told):
        load_bundle(tmp_path)


@pytest.mark.parametrize(("key", "value"), [("trained", [1]), ("tasks", [[]]), ("plugins", 3)])
def test_a_bundle_json_with_something_else_at_a_key_is_refused(saved, key, value):
    about = json.loads((saved / "bundle.json").read_text())
    (saved / "bundle.json").write_text(json.dumps(about | {key: value}))
    with pytest.raises(MTLError, match="incomplete or its parts do not fit|is not a checkpoint"):
        load_bundle(saved)


@pytest.mark.parametrize("key", ["format", "plugins", "encoder", "tasks"])
def test_a_bundle_json_that_lacks_a_key_is_refused(saved, key):
    about = json.loads((saved / "bundle.json").read_text())
    del about[key]
    (saved / "bundle.json").write_text(json.dumps(about))
    with pytest.raises(BundleError, match="this version reads format 3|incomplete or its parts do not fit"):
        load_bundle(saved)


@pytest.mark.parametrize(
    "name", ["heads.safetensors", "encoder/model.safetensors", "encoder/config.json", "encoder/tokenizer.json"]
)
@pytest.mark.parametrize("how", ["torn", "gone"])
def test_a_file_that_is_torn_or_gone_is_an_error(saved, name, how):
    path = saved / name
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2])
    with pytest.raises((BundleError, EncoderError), match=str(saved)):
        load_bundle(saved)


def test_heads_of_another_model_do_not_fit(saved, encoder_folder, tmp_path):
    other = make_bundle(encoder_folder, tasks()[0])
    other.save(tmp_path / "other")
    (saved / "heads.safetensors").write_bytes((tmp_path / "other" / "heads.safetensors").read_bytes())
    with pytest.raises(BundleError, match=r"its parts do not fit.*Missing key"):
        load_bundle(saved)


def _without_kinds(saved, count):
    """Let the first tasks of a bundle be of a kind that no plugin brings."""
    about = json.loads((saved / "bundle.json").read_text())
    for entry in about["tasks"][:count]:
        entry["task"]["kind"] = "poetry"
    about["plugins"]["poetry"] = "'verse' (verse-kit 1.2)"
    (saved / "bundle.json").write_text(json.dumps(about))
    return [entry["task"]["name"] for entry in about["tasks"]]


def test_without_the_plugin_of_one_head_the_others_answer(bundle, saved, tmp_path, caplog):
    first, *others = _without_kinds(saved, 1)
    loaded = load_bundle(saved)
    assert "verse-kit 1.2" in caplog.text
    text = "the cat is good"
    whole = bundle.predict([text])[0]
    assert loaded.predict([text])[0] == {name: answer for name, answer in whole.items() if name != first}
    with pytest.raises(BundleError, match=rf"Task '{first}' is of kind 'poetry', which no plugin brings.*verse-kit 1.2"):
        loaded.predict([text], [first])
    with pytest.raises(BundleError, match="cannot be written without its head"):
        loaded.save(tmp_path / "again")


def test_without_the_plugin_of_any_head_it_is_named(saved):
    _without_kinds(saved, len(json.loads((saved / "bundle.json").read_text())["tasks"]))
    with pytest.raises(UnknownNameError, match="Unknown kind 'poetry'.*verse-kit 1.2"):
        load_bundle(saved)


def test_each_row_is_answered_by_the_heads_that_can_read_it(encoder_folder):
    rows = [{"text": "the cat", "text_pair": f"sat {n}", "label": label} for n in range(4) for label in ("a", "b")]
    mood = mtl.Task(name="mood", kind="classification", data=splits(sentiment_rows(16)))
    pair = mtl.Task(name="pair", kind="pair-classification", data={"train": rows, "validation": rows, "test": rows})
    bundle = make_bundle(encoder_folder, mood, pair)
    asked = [{"text": "the cat", "text_pair": "sat"}, "bob", {"text": "a dog", "text_pair": "ran"}]
    found = bundle.predict(asked)
    assert [set(answer) for answer in found] == [{"mood", "pair"}, {"mood"}, {"mood", "pair"}]
    assert found == [bundle.predict([row])[0] for row in asked]
    with pytest.raises(DataError, match=r"input, row 2: it has 'text', which task 'pair' cannot read"):
        bundle.predict(asked, ["pair"])


def test_one_text_or_task_is_no_list_of_them(encoder_folder):
    bundle = make_bundle(encoder_folder, mtl.Task(name="mood", kind="classification", data=splits(sentiment_rows(16))))
    with pytest.raises(DataError, match="predict takes a list of rows; it was given one text"):
        bundle.predict("bob")
    with pytest.raises(DataError, match="predict takes a list of tasks; it was given one text"):
        bundle.predict(["bob"], "mood")
