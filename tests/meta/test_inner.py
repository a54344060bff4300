"""The inner loop on losses whose answers are known: quadratics, and a LayerNorm."""

from __future__ import annotations

import pytest
import torch
from torch.func import grad, vmap
from torch.nn.functional import layer_norm

from mtl.meta.inner import RATE, Descent, Trace, split, unroll
from mtl.model.precision import attention_by_products

ORDERS = pytest.mark.parametrize("order", ["store", "recompute"])
RATE_OF = 0.1


def spd(size, seed):
    """A symmetric positive definite matrix."""
    torch.manual_seed(seed)
    root = torch.randn(size, size, dtype=torch.float64)
    return root @ root.T / size + torch.eye(size, dtype=torch.float64)


A, B = spd(4, 0), spd(4, 1)
C = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
D = torch.tensor([0.0, 1.0, 1.0, -1.0], dtype=torch.float64)
EYE = torch.eye(4, dtype=torch.float64)


def support(adapted, shared):
    """½ (θ − c)ᵀ A (θ − c)."""
    away = adapted["theta"] - shared.get("c", C)
    return away @ A @ away / 2


def query(theta):
    """½ (θ − d)ᵀ B (θ − d), whose gradient is B (θ − d)."""
    return (theta - D) @ B @ (theta - D) / 2


def start():
    return torch.tensor([0.3, 0.1, -0.4, 2.0], dtype=torch.float64, requires_grad=True)


def end(theta, order, steps=3, shared=None, clip=None, trace=None):
    *_, last = unroll(support, {"theta": theta}, lambda step: shared or {}, Descent(RATE_OF, clip), steps, order, trace)
    return last["theta"]


@pytest.mark.parametrize("order", ["first", "store", "recompute"])
@pytest.mark.parametrize("steps", [1, 3, 5])
def test_descent_on_a_quadratic_ends_where_the_closed_form_does(order, steps):
    # θ_K − c = (I − αA)^K (θ_0 − c)
    theta = start()
    expected = C + torch.linalg.matrix_power(EYE - RATE_OF * A, steps) @ (theta - C)
    torch.testing.assert_close(end(theta, order, steps), expected, rtol=1e-12, atol=1e-12)


@ORDERS
@pytest.mark.parametrize("steps", [1, 3, 5])
def test_the_meta_gradient_of_a_quadratic_is_its_closed_form(order, steps):
    # dL/dθ_0 = (I − αA)^K B (θ_K − d)
    theta = start()
    last = end(theta, order, steps)
    query(last).backward()
    expected = torch.linalg.matrix_power(EYE - RATE_OF * A, steps) @ B @ (last.detach() - D)
    torch.testing.assert_close(theta.grad, expected, rtol=1e-12, atol=1e-12)


def test_the_first_order_gradient_of_a_quadratic_is_that_at_the_end():
    theta = start()
    last = end(theta, "first")
    query(last).backward()
    torch.testing.assert_close(theta.grad, B @ (last.detach() - D), rtol=1e-12, atol=1e-12)


def test_reptile_on_a_quadratic_goes_the_way_of_the_closed_form():
    # θ_0 − θ_K = (I − (I − αA)^K) (θ_0 − c)
    theta = start()
    expected = (EYE - torch.linalg.matrix_power(EYE - RATE_OF * A, 4)) @ (theta - C)
    torch.testing.assert_close(theta - end(theta, "first", 4), expected, rtol=1e-12, atol=1e-12)


@ORDERS
def test_what_the_support_loss_depends_on_beside_has_its_gradient_too(order):
    # θ_1 = θ_0 − αA (θ_0 − c), so dL/dc = αA B (θ_1 − d)
    theta, c = start(), C.clone().requires_grad_()
    last = end(theta, order, 1, {"c": c})
    query(last).backward()
    torch.testing.assert_close(c.grad, RATE_OF * A @ B @ (last.detach() - D), rtol=1e-12, atol=1e-12)


@ORDERS
def test_a_learned_rate_has_the_gradient_of_the_closed_form(order):
    # θ_1 = θ_0 − αA (θ_0 − c), so dL/dα = −(A (θ_0 − c)) · B (θ_1 − d)
    theta, rate = start(), torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    last = end(theta, order, 1, {RATE + "theta": rate})
    query(last).backward()
    expected = -(A @ (theta.detach() - C)) @ B @ (last.detach() - D)
    torch.testing.assert_close(rate.grad, expected, rtol=1e-12, atol=1e-12)


@ORDERS
def test_a_rate_for_every_step_has_a_gradient_for_every_step(order):
    theta = start()
    rates = torch.tensor([0.1, 0.2, 0.05], dtype=torch.float64, requires_grad=True)
    *_, last = unroll(support, {"theta": theta}, lambda step: {RATE + "theta": rates[step]}, Descent(9.0), 3, order)
    query(last["theta"]).backward()
    # θ_3 = c + Π (I − α_k A) (θ_0 − c); by α_1 the factor of step 1 becomes −A, and all commute.
    factors = [EYE - float(rate) * A for rate in rates.detach()]
    for step in range(3):
        others = torch.linalg.multi_dot([*(factor for place, factor in enumerate(factors) if place != step), -A])
        expected = (others @ (theta.detach() - C)) @ B @ (last["theta"].detach() - D)
        torch.testing.assert_close(rates.grad[step], expected, rtol=1e-10, atol=1e-10)


def test_every_step_can_be_asked_for_and_the_trace_has_the_loss_before_each():
    theta, trace = start(), Trace()
    points = [
        value["theta"].detach() for value in unroll(support, {"theta": theta}, lambda _: {}, Descent(0.1), 3, "store", trace)
    ]
    expected = [support({"theta": point}, {}) for point in (theta.detach(), *points[:2])]
    torch.testing.assert_close(torch.stack(trace.losses), torch.stack(expected))
    assert not any(loss.requires_grad for loss in trace.losses)


def test_recomputing_tells_the_trace_of_every_step_once():
    theta, trace = start(), Trace()
    query(end(theta, "recompute", 3, trace=trace)).backward()
    assert len(trace.losses) == 3


@pytest.mark.parametrize("order", ["first", "store", "recompute"])
def test_clipping_shortens_a_long_gradient_and_leaves_a_short_one(order):
    theta = start()
    slope = A @ (theta.detach() - C)
    norm = float(slope.norm())
    short = end(theta, order, 1, clip=norm / 2)
    torch.testing.assert_close(short, theta - RATE_OF * slope / 2, rtol=1e-12, atol=1e-12)
    assert torch.equal(end(theta, order, 1, clip=2 * norm), end(theta, order, 1))


def test_the_clipped_gradient_is_differentiated_alike_by_storing_and_by_recomputing():
    found = []
    for order in ("store", "recompute"):
        theta = start()
        query(end(theta, order, 3, clip=1.0)).backward()
        found.append(theta.grad)
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)
    # θ_1 = θ_0 − α g/‖g‖, so dθ_1/dθ_0 = I − α/‖g‖ (I − ĝĝᵀ) A
    theta = start()
    last = end(theta, "recompute", 1, clip=1.0)
    query(last).backward()
    slope = A @ (theta.detach() - C)
    unit = slope / slope.norm()
    turn = EYE - RATE_OF / slope.norm() * (EYE - torch.outer(unit, unit)) @ A
    torch.testing.assert_close(theta.grad, turn.T @ B @ (last.detach() - D), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("order", ["first", "store", "recompute"])
def test_a_start_made_of_another_parameter_is_stepped_from_by_itself(order):
    # b starts at 2a; the loss is (ab)²/2, so its slope by a alone is ab² = 4, and not 8, which goes through b as well.
    a = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)

    def loss(adapted, shared):
        return (adapted["a"] * adapted["b"]).pow(2) / 2

    (last,) = unroll(loss, {"a": a, "b": 2 * a}, lambda _: {}, Descent(0.1), 1, order)
    assert last["a"].item() == pytest.approx(1 - 0.1 * 4)
    assert last["b"].item() == pytest.approx(2 - 0.1 * 2)
    (last["a"] + last["b"]).backward()
    # a' = a − 0.1ab², b' = b − 0.1a²b with b = 2a: the sum is 3a − 0.4a³ − 0.2a³, by a 3 − 1.8a² = 1.2; first order 3.
    assert a.grad.item() == pytest.approx(3.0 if order == "first" else 1.2)


@pytest.mark.parametrize("order", ["first", "store", "recompute"])
def test_a_parameter_without_a_say_in_the_loss_is_an_error(order):
    theta = {"theta": start(), "idle": torch.zeros(2, requires_grad=True)}
    with pytest.raises(RuntimeError, match="not have been used in the graph"):
        list(unroll(support, theta, lambda _: {}, Descent(0.1), 1, order))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_recomputing_has_the_same_dropout_and_leaves_the_generator_alone(dropout):
    def loss(adapted, shared):
        return torch.nn.functional.dropout(adapted["theta"] - C, dropout).pow(3).sum()

    found = []
    for order in ("store", "recompute"):
        torch.manual_seed(0)
        theta = start()
        *_, last = unroll(loss, {"theta": theta}, lambda _: {}, Descent(0.01), 3, order)
        state = torch.get_rng_state()
        query(last["theta"]).backward()
        assert torch.equal(torch.get_rng_state(), state)
        found.append((theta.grad, state))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-12, atol=1e-12)
    assert torch.equal(found[0][1], found[1][1])


def test_fused_attention_has_no_second_derivative_and_the_inner_loop_has():
    def loss(adapted, shared):
        q = adapted["q"]
        return torch.nn.functional.scaled_dot_product_attention(q, q, q).pow(2).sum()

    torch.manual_seed(0)
    q = torch.randn(1, 1, 3, 4, dtype=torch.float64, requires_grad=True)
    with pytest.raises(RuntimeError, match="flash_attention_for_cpu_backward is not implemented"):
        torch.autograd.grad(torch.autograd.grad(loss({"q": q}, {}), q, create_graph=True)[0].sum(), q)
    for order in ("store", "recompute"):

        def whole(q, order=order):
            (last,) = unroll(loss, {"q": q}, lambda _: {}, Descent(0.1), 1, order)
            return last["q"].sum()

        assert torch.autograd.gradcheck(whole, q)
    with attention_by_products():
        assert torch.autograd.gradgradcheck(lambda q: loss({"q": q}, {}), q)


def norm_loss(theta, x, y):
    return (layer_norm(torch.tanh(x @ theta["w"]), (6,), theta["gain"], theta["bias"]) - y).pow(2).mean()


def test_a_vmap_over_tasks_is_wrong_where_a_layernorm_is_differentiated_twice_and_a_loop_is_right():
    torch.manual_seed(0)
    double = {"dtype": torch.float64}
    theta = {"w": torch.randn(6, 6, **double) / 3, "gain": torch.rand(6, **double) + 0.5, "bias": torch.randn(6, **double) / 9}
    rows = [torch.randn(4, 5, 6, **double) for _ in range(4)]  # support and query of four tasks, x and y

    def after_steps(theta, x, y, query_x, query_y):
        for _ in range(2):
            slope = grad(norm_loss)(theta, x, y)
            theta = {name: value - 0.1 * slope[name] for name, value in theta.items()}
        return norm_loss(theta, query_x, query_y)

    def of_all_tasks(theta):
        return vmap(after_steps, (None, 0, 0, 0, 0))(theta, *rows).sum()

    # The value is right, which is checked by differences: f(θ + hv) − f(θ − hv) over 2h.
    toward = {name: torch.randn_like(value) for name, value in theta.items()}
    step = 1e-5
    ahead, behind = ({name: value + sign * step * toward[name] for name, value in theta.items()} for sign in (1, -1))
    slope = float(of_all_tasks(ahead) - of_all_tasks(behind)) / (2 * step)

    by_vmap = sum(float((gradient * toward[name]).sum()) for name, gradient in grad(of_all_tasks)(theta).items())
    assert abs(by_vmap - slope) > 1e-3 * abs(slope)

    for order in ("store", "recompute"):
        start = {name: value.clone().requires_grad_() for name, value in theta.items()}
        for x, y, query_x, query_y in zip(*rows, strict=True):
            *_, last = unroll(lambda own, _, x=x, y=y: norm_loss(own, x, y), start, lambda _: {}, Descent(0.1), 2, order)
            norm_loss(last, query_x, query_y).backward()
        ours = sum(float((value.grad * toward[name]).sum()) for name, value in start.items())
        assert ours == pytest.approx(slope, rel=1e-6)


def test_parameters_are_parted_into_adapted_and_trained_beside():
    named = {name: torch.zeros(1, requires_grad=name != "frozen") for name in ("a", "b", "frozen")}
    adapted, beside = split(named, {"a"})
    assert (list(adapted), list(beside)) == (["a"], ["b"])
