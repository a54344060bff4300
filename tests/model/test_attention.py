"""Attention and dropout of training on CPUs: what PyTorch's give, without waiting for random numbers."""

from __future__ import annotations

import pytest
import torch
from test_encoder import ARCHITECTURES, ragged, small
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.testing import assert_close

from mtl.config import EncoderConfig
from mtl.model.attention import Dropout, drop
from mtl.model.encoder import load_encoder
from mtl.model.pretrained import quicken
from mtl_plugins.prefix import PrefixTuning

FUSED = "aten::_scaled_dot_product_flash_attention_for_cpu"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.93])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_share_is_dropped_and_the_mean_stays(share, dtype):
    torch.manual_seed(0)
    found = drop(torch.ones(401, 997, dtype=dtype), share)
    kept = found != 0
    assert kept.double().mean().item() == pytest.approx(1 - share, abs=4 * (share * (1 - share) / found.numel()) ** 0.5)
    assert_close(found[kept].unique().double(), torch.tensor([1 / (1 - share)]).double(), rtol=1e-2, atol=0)
    # Neither rows nor columns, nor neighbours that share a draw of 64 bits, are dropped together.
    assert kept.double().mean(0).std() < 0.03
    left, right = kept[:, :-1].double().flatten(), kept[:, 1:].double().flatten()
    assert abs(torch.corrcoef(torch.stack([left, right]))[0, 1]) < 0.01


def test_what_is_dropped_follows_from_the_seed_and_is_drawn_anew():
    values = torch.ones(50, 7)
    torch.manual_seed(3)
    first, second = drop(values, 0.3), drop(values, 0.3)
    torch.manual_seed(3)
    assert_close(drop(values, 0.3), first, rtol=0, atol=0)
    assert not torch.equal(first, second)


def test_a_gradient_goes_where_the_value_went():
    values = torch.full((40, 5), 2.0, requires_grad=True)
    found = drop(values, 0.25)
    found.sum().backward()
    assert_close(values.grad * 2, found.detach())


@pytest.mark.parametrize(("share", "kept"), [(0.0, 1.0), (1e-6, 1.0), (1.0, 0.0)])
def test_all_or_nothing_is_dropped(share, kept):
    torch.manual_seed(0)
    assert_close(drop(torch.ones(64), share), torch.full((64,), kept), rtol=0, atol=1e-5)


def test_nothing_is_dropped_outside_of_training():
    values = torch.randn(8, 8)
    assert Dropout(0.5).eval()(values) is values


def gradient(encoder, dropout):
    """All gradients of a batch, in a row."""
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = dropout
    encoder.train()(ragged([20, 3, 13])).pooled.pow(3).sum().backward()
    return torch.cat([parameter.grad.flatten() for parameter in encoder.parameters() if parameter.grad is not None]).double()


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "MPNet"])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-12), (torch.bfloat16, 0.05)])
def test_products_give_the_gradient_of_the_kernel(architecture, dtype, error):
    """In bfloat16 the encoder takes products, in float64 as soon as there is dropout: here one value in 10¹²."""
    quick, plain = small(architecture).to(dtype), small(architecture).double()
    quicken(quick.backbone)
    found, wanted = gradient(quick, 1e-12 if dtype is torch.float64 else 0.0), gradient(plain, 0.0)
    assert (found - wanted).norm() < error * wanted.norm()


def test_products_reach_a_prefix_too():
    quick, plain = small("Bert"), small("Bert")
    for encoder in (quick, plain):
        encoder.put(PrefixTuning(length=3))
        encoder.double()
    quicken(quick.backbone)
    found, wanted = gradient(quick, 1e-12), gradient(plain, 0.0)
    assert (found - wanted).norm() < 1e-12 * wanted.norm()
    assert quick.layers()[0].attention.self.keys.grad.norm() > 0


@pytest.mark.parametrize(
    ("precision", "dropout", "training", "fused"),
    [
        ("fp32", 0.0, True, True),
        ("fp32", 0.1, True, False),
        ("fp32", 0.1, False, True),
        ("bf16", 0.0, True, False),
        ("bf16", 0.1, False, True),
    ],
)
def test_the_kernel_is_fused_where_it_is_quick(encoder_folder, precision, dropout, training, fused):
    encoder = load_encoder(EncoderConfig(name=str(encoder_folder), dropout=dropout, precision=precision), encoder_folder)
    encoder.train(training)
    with profile(activities=[ProfilerActivity.CPU]) as seen, torch.set_grad_enabled(training):
        encoder(ragged([9, 4, 6]))
    names = {event.key for event in seen.key_averages()}
    assert (FUSED in names) is fused
    assert "aten::_scaled_dot_product_attention_math" not in names
    assert "aten::bernoulli_" not in names
