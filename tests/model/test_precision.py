"""In which precision a pass is computed, and by which kernels."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

import mtl.model.precision as module
from mtl.config import EncoderConfig
from mtl.errors import ConfigError
from mtl.model.encoder import load_encoder
from mtl.model.precision import attention_by_products, check_precision, computing, in_bfloat16, round_shape

CPU = torch.device("cpu")


def test_attention_by_products_has_a_second_derivative():
    query = torch.randn(1, 1, 3, 4, requires_grad=True)
    with attention_by_products():
        found = scaled_dot_product_attention(query, query, query).pow(2).sum()
    (slope,) = torch.autograd.grad(found, query, create_graph=True)
    slope.pow(2).sum().backward()
    assert torch.isfinite(query.grad).all()


@pytest.mark.parametrize(("precision", "low"), [("fp32", False), ("bf16", True)])
def test_precision_is_what_is_asked_for(precision, low):
    assert in_bfloat16(precision, CPU) is low
    with computing(precision, CPU):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype is (torch.bfloat16 if low else torch.float32)


def test_a_pass_in_bfloat16_has_few_shapes_and_says_the_same(encoder_folder, monkeypatch):
    config = EncoderConfig(name=str(encoder_folder), dropout=0.0, precision="bf16")
    encoder = load_encoder(config, encoder_folder).train()
    seen = []
    forward = encoder.backbone.forward
    monkeypatch.setattr(
        encoder.backbone, "forward", lambda **inputs: seen.append(tuple(inputs["input_ids"].shape)) or forward(**inputs)
    )
    ids = torch.randint(5, 60, (9, 11), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    whole, below = encoder(inputs).pooled, encoder.trunk(inputs, 1)
    above = encoder(inputs, below, 1).pooled
    assert seen == [(12, 12)] * 3
    assert (whole.shape, below.shape) == ((9, 32), (9, 11, 32))
    encoder.precision = "fp32"
    for found in (whole, above):
        torch.testing.assert_close(found, encoder(inputs).pooled, rtol=0.05, atol=0.02)
    assert seen[3:] == [(9, 11)] * 2
    whole.sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in encoder.parameters() if p.grad is not None)


def test_a_small_batch_is_filled_up_by_no_more_than_a_third():
    def rows(count):
        mask = torch.ones(count, 4, dtype=torch.long)
        return len(round_shape({"input_ids": mask, "attention_mask": mask}, None, "bf16")[0]["input_ids"])

    assert [rows(count) for count in range(1, 10)] == [1, 2, 3, 4, 6, 6, 8, 8, 12]


@pytest.mark.parametrize(
    ("count", "tokens", "padded"),
    [(7, 17, (8, 20)), (8, 29, (8, 32)), (31, 9, (32, 9)), (8, 33, (8, 34)), (16, 63, (16, 64)), (4, 65, (4, 68))],
)
def test_short_sequences_are_filled_up_only_in_a_small_batch(count, tokens, padded):
    mask = torch.ones(count, tokens, dtype=torch.long)
    inputs, _ = round_shape({"input_ids": mask, "attention_mask": mask}, None, "bf16")
    assert {value.shape for value in inputs.values()} == {padded}
    assert inputs["attention_mask"].sum() == count * tokens + padded[0] - count  # a token of each sequence that is added


@pytest.mark.parametrize("precision", ["fp32", "bf16", "auto"])
def test_a_gpu_without_bfloat16_is_refused_only_where_it_is_asked_for(monkeypatch, precision):
    monkeypatch.setattr(module, "has_bfloat16", lambda device: False)
    cuda = torch.device("cuda:0")
    if precision == "bf16":
        with pytest.raises(ConfigError, match=r"encoder\.precision: bf16 .* device cuda:0 does not multiply .* Use auto"):
            check_precision(precision, cuda)
    else:
        check_precision(precision, cuda)
        assert not in_bfloat16(precision, cuda)


def test_a_cpu_without_bfloat16_is_warned_of_and_computes(monkeypatch, caplog):
    monkeypatch.setattr(module, "has_bfloat16", lambda device: False)
    for precision in ("fp32", "auto"):
        check_precision(precision, CPU)
    assert not caplog.text
    check_precision("bf16", CPU)
    assert "has no bfloat16; it is emulated" in caplog.text
    with computing("bf16", CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).tolist() == [[2.0, 2.0], [2.0, 2.0]]
