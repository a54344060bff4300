from __future__ import annotations

import numpy as np
import pytest
from full_disk import room_for_files

import mtl
from mtl.data.batches import collate
from mtl.data.features import WindowError, featurize
from mtl.data.rows import Rows
from mtl.data.tokenizer import Tokenizer
from mtl.data.vocabulary import Vocabulary
from mtl.errors import CheckpointError
from mtl.task import Task


@pytest.fixture(scope="module")
def backend(encoder_folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(encoder_folder, local_files_only=True)


def words_of(backend, tokens):
    return backend.convert_ids_to_tokens(tokens.tolist())


def test_a_long_text_is_parted_into_windows_that_share_tokens(backend):
    # Of 6 tokens 2 are special: 4 words a window, of which 1 is shared with the next: words 0-3, 3-6.
    found = Tokenizer(backend, 6)(["the cat sat on a mat bob", "bob"], stride=1)
    assert words_of(backend, found.input_ids[0]) == ["[CLS]", "the", "cat", "sat", "on", "[SEP]"]
    assert words_of(backend, found.input_ids[1]) == ["[CLS]", "on", "a", "mat", "bob", "[SEP]"]
    assert found.origin.tolist() == [0, 0, 1]


def test_windows_say_where_their_tokens_are_in_the_second_text(backend):
    # [CLS] cat [SEP] + 2 words + [SEP] make 6; one word is shared.
    found = Tokenizer(backend, 6)([("cat", "the dog sat")], stride=1)
    first, second = (found.token_chars[window].reshape(-1, 2).tolist() for window in range(2))
    assert first == [[-1, -1], [-1, -1], [-1, -1], [0, 3], [4, 7], [-1, -1]]
    assert second == [[-1, -1], [-1, -1], [-1, -1], [4, 7], [8, 11], [-1, -1]]


def test_windows_come_out_of_the_cache_as_they_went_in(backend, tmp_path):
    first, again = (Tokenizer(backend, 6, tmp_path)(["the cat sat on a mat"], stride=1) for _ in range(2))
    assert again.origin.tolist() == first.origin.tolist()
    assert again.token_chars.values.tolist() == first.token_chars.values.tolist()


def test_a_cache_without_room_is_named_and_left_as_it_was(backend, tmp_path):
    texts = [f"bob {number}" for number in range(99)]
    with room_for_files(2**10), pytest.raises(CheckpointError, match=r"safetensors cannot be written.*Is the disk full\?"):
        Tokenizer(backend, 6, tmp_path)(texts)
    assert not list(tmp_path.iterdir())
    assert len(Tokenizer(backend, 6, tmp_path)(texts).input_ids) == 99


def test_a_first_text_that_leaves_no_room_is_named(backend):
    with pytest.raises(WindowError, match=r"the first text has 3 tokens, which leaves no room in 8 for windows that share 2"):
        Tokenizer(backend, 8)([("cat", "a dog"), ("the cat sat", "a dog")], stride=2)


class Windowed(mtl.TaskKind):
    """Reads pairs in windows, and any number of them a row."""

    roles = {"text": True, "pairs": True}
    metrics = (mtl.Metric("none", lambda outcome: 0.0),)
    sequences = 0
    stride = 1

    def sequence_counts(self, rows):
        return np.array([len(found) for found in rows["pairs"]])

    def requests(self, rows):
        return [(text, pair) for text, pairs in zip(rows["text"], rows["pairs"], strict=True) for pair in pairs]

    fit = load_state = targets = head = loss = gold = decode = trivial = None


ROWS = Rows({"text": ["cat", "dog"], "pairs": [["the dog sat", "bob"], ["a mat"]]}, "given", (7, 9))


def windowed():
    return Windowed(Task(name="t", kind="windowed", data=[]))


def test_rows_may_have_different_numbers_of_sequences(backend):
    features = featurize(windowed(), ROWS, Tokenizer(backend, 6), with_targets=False)
    assert features.counts.tolist() == [3, 1]  # two windows and one; one
    assert features.requests == [[("cat", "the dog sat"), ("cat", "bob")], [("dog", "a mat")]]
    assert features.lengths.tolist() == [6, 6]
    assert features.take([1, 0]).counts.tolist() == [1, 3]


def test_a_batch_says_how_many_sequences_each_row_has(backend):
    features = featurize(windowed(), ROWS, Tokenizer(backend, 6), with_targets=False)
    part = collate({"t": [1, 0]}, {"t": features}).parts["t"]
    assert part.counts.tolist() == [1, 3]
    assert part.index is None  # 4 sequences, in order


def test_a_row_without_room_for_windows_is_named(backend):
    long = Rows({"text": ["cat", "the cat sat on"], "pairs": [["bob", "bob"], ["a mat"]]}, "given", (7, 9))
    with pytest.raises(mtl.MTLError, match=r"given, row 9: the first text has 4 tokens.*option stride"):
        featurize(windowed(), long, Tokenizer(backend, 6), with_targets=False)


def test_a_vocabulary_knows_its_special_tokens(backend):
    vocabulary = Vocabulary(backend)
    named = backend.convert_ids_to_tokens([vocabulary.start, vocabulary.end, vocabulary.mask])
    assert named == ["[CLS]", "[SEP]", "[MASK]"]
    assert set(backend.convert_ids_to_tokens(vocabulary.special.tolist())) == {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    assert vocabulary.size == len(backend)


def test_what_a_vocabulary_encodes_it_decodes(backend):
    vocabulary = Vocabulary(backend)
    tokens = vocabulary.encode(["the cat sat", "a dog"])
    assert [len(found) for found in tokens] == [3, 2]
    assert [vocabulary.decode([*found, vocabulary.end]) for found in tokens] == ["the cat sat", "a dog"]


def test_tokens_and_their_place_in_the_cache_do_not_depend_on_threads(backend, tmp_path, monkeypatch):
    texts = [f"{'the cat ' * (n % 9)}sat {n}" for n in range(5000)]  # more than a chunk
    found = []
    for threads in ("true", "false"):
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", threads)
        tokenized = Tokenizer(backend, 16, tmp_path / threads)(texts)
        found.append([tokenized.input_ids.values.tolist(), tokenized.input_ids.offsets.tolist(), tokenized.truncated])
    assert found[0] == found[1]
    names = [[path.name for path in (tmp_path / threads).iterdir()] for threads in ("true", "false")]
    assert names[0] == names[1]
    assert len(names[0]) == 1
