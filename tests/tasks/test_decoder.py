from __future__ import annotations

import itertools

import pytest
import torch
from torch.testing import assert_close

from mtl.model.encoded import Encoded
from mtl_tasks.decoder import Decoder, Search, write

START, END, SIZE = 1, 2, 6


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    made = Decoder(8, layers=2, vocabulary=SIZE, longest=6, dropout=0.1, own_embeddings=False)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)  # so that tokens differ in how likely they are
    return made.eval()


@pytest.fixture
def read():
    """The encoder's embeddings, the states of two rows, and their mask; the second row has two states."""
    generator = torch.Generator().manual_seed(1)
    shared, states = (torch.randn(*shape, generator=generator) for shape in ((SIZE, 8), (2, 3, 8)))
    return shared, states, torch.tensor([[1, 1, 1], [1, 1, 0]])


def search(**values):
    return Search(**{"beams": 1, "length_penalty": 0.0, "temperature": 0.0, "longest": 3, "start": START, "end": END} | values)


def log_p_of(decoder, read, row, tokens):
    """The log-probability of each token after the ones before it, by a single pass without cached keys."""
    shared, states, mask = (read[0], read[1][row : row + 1], read[2][row : row + 1])
    before = torch.tensor([[START, *tokens[:-1]]])
    with torch.no_grad():
        log_odds, _ = decoder(before, shared, decoder.memory(states), (mask > 0)[:, None, None, :])
    return log_odds.log_softmax(-1)[0, range(len(tokens)), tokens].tolist()


def test_a_step_with_cached_keys_gives_what_a_whole_pass_gives(decoder, read):
    shared, states, mask = read
    tokens, readable, memory = torch.tensor([[1, 3, 4, 5], [1, 0, 5, 3]]), (mask > 0)[:, None, None, :], decoder.memory(states)
    with torch.no_grad():
        whole, _ = decoder(tokens, shared, memory, readable)
        past, steps = None, []
        for place in range(4):
            step, past = decoder(tokens[:, place : place + 1], shared, memory, readable, past)
            steps.append(step)
    assert_close(torch.cat(steps, dim=1), whole, rtol=1e-4, atol=1e-5)


def test_a_token_does_not_see_those_after_it(decoder, read):
    shared, states, mask = read
    readable, memory = (mask > 0)[:, None, None, :], decoder.memory(states)
    with torch.no_grad():
        first, _ = decoder(torch.tensor([[1, 3, 4], [1, 3, 4]]), shared, memory, readable)
        other, _ = decoder(torch.tensor([[1, 3, 5], [1, 3, 5]]), shared, memory, readable)
    assert_close(first[:, :2], other[:, :2])


def test_padding_of_the_source_is_not_read(decoder, read):
    shared, states, mask = read
    changed = states.clone()
    changed[1, 2] = 9.0
    assert write(decoder, shared, changed, mask, search(longest=5)) == write(decoder, shared, states, mask, search(longest=5))


def test_one_beam_takes_the_likeliest_token_each_time(decoder, read):
    shared, states, mask = read
    for row, written in enumerate(write(decoder, shared, states, mask, search())):
        tokens = []
        for _ in range(3):
            likeliest = max(range(SIZE), key=lambda token: log_p_of(decoder, read, row, [*tokens, token])[-1])
            if likeliest == END:
                break
            tokens.append(likeliest)
        assert written == tokens


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_enough_beams_find_the_best_of_all_texts(decoder, read, alpha):
    shared, states, mask = read
    others = [token for token in range(SIZE) if token != END]
    texts = [[*words, END] for length in range(3) for words in itertools.product(others, repeat=length)]
    texts += [list(words) for words in itertools.product(others, repeat=3)]  # cut at the longest

    def score(row, tokens):
        return sum(log_p_of(decoder, read, row, tokens)) / ((5 + len(tokens)) / 6) ** alpha

    found = write(decoder, shared, states, mask, search(beams=SIZE**3, length_penalty=alpha))
    for row, written in enumerate(found):
        best = max(texts, key=lambda tokens: score(row, tokens))
        assert written == [token for token in best if token != END]


def test_sampling_draws_alike_each_time_and_is_greedy_when_it_is_cold(decoder, read):
    warm, cold = search(temperature=1.0, longest=6), search(temperature=1e-4, longest=6)
    assert write(decoder, *read, warm) == write(decoder, *read, warm)
    assert write(decoder, *read, cold) == write(decoder, *read, search(longest=6))


def test_an_own_table_of_embeddings_is_read_and_written_by():
    made = Decoder(4, layers=1, vocabulary=9, longest=3, dropout=0.0, own_embeddings=True)
    states = torch.zeros(1, 1, 4)
    table = made.table(Encoded(states, torch.ones(1, 1), states[:, 0]))  # which has no embeddings of the encoder's
    assert table is made.embeddings.weight
    log_odds, _ = made(torch.tensor([[8]]), table, made.memory(states), torch.ones(1, 1, 1, 1) > 0)
    assert log_odds.shape == (1, 1, 9)
