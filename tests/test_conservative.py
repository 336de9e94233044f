"""The conservative term: values, gradients, shapes and errors of `offline_rl_lib.conservative`."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from offline_rl_lib import (
    TanhNormal,
    cql_penalty,
    log_mean_exp_q,
    uniform_actions,
    uniform_log_density,
)

LOW, HIGH = torch.tensor([-2.0], dtype=torch.float64), torch.tensor([2.0], dtype=torch.float64)
NODES, WEIGHTS = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(400))


def bumpy_q(action: Tensor) -> Tensor:
    """Two bumps and a slope on the torque axis, shape (..., 1) -> (...)."""
    torque = action[..., 0]
    return 3.0 * torch.sin(2.0 * torque) - 0.8 * (torque - 0.5) ** 2


def soft_maximum(
    q: Callable[[Tensor], Tensor], temperature: float = 1.0, low: Tensor = LOW, high: Tensor = HIGH
) -> float:
    """T * log of the integral of exp(Q / T) over a 1-D box, by Gauss-Legendre quadrature."""
    half = (high - low) / 2
    exponent = q((low + high) / 2 + half * NODES.unsqueeze(-1)) / temperature
    return temperature * float(torch.logsumexp(exponent + (WEIGHTS * half).log(), dim=0))


def policy(mean: float, std: float) -> TanhNormal:
    return TanhNormal(
        torch.tensor([mean], dtype=torch.float64),
        torch.tensor([std], dtype=torch.float64),
        LOW,
        HIGH,
    )


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(source: str, shape: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor]:
    """Actions (*shape, 1) and log-densities (*shape) from one source, or from all in thirds."""
    generator = seeded(seed)
    if source == "uniform":
        action = uniform_actions(shape, LOW, HIGH, generator)
        return action, uniform_log_density(LOW, HIGH).expand(shape)
    if source == "mixture":
        third = (*shape[:-1], shape[-1] // 3)
        parts = [draw(name, third, seed + i) for i, name in enumerate(("uniform", "s", "s'"))]
        return torch.cat([a for a, _ in parts], dim=-2), torch.cat([m for _, m in parts], dim=-1)
    return policy(*{"s": (0.6, 0.9), "s'": (-0.2, 1.1)}[source]).rsample_with_log_prob(
        shape, generator
    )


finite = st.floats(-30, 30, allow_subnormal=False)
temperatures = st.floats(0.1, 10.0)
tables = st.tuples(st.integers(1, 4), st.integers(1, 9)).flatmap(
    lambda shape: st.tuples(*(arrays(np.float64, shape, elements=finite) for _ in range(2)))
)


# ----------------------------------------------------------------------------- the estimate


@pytest.mark.parametrize("source", ["uniform", "s", "s'", "mixture"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 5.0])
def test_every_proposal_estimates_the_same_integral(source: str, temperature: float) -> None:
    repeats, count = 20, 15_000
    action, log_density = draw(source, (repeats, count), seed=0)
    estimates = log_mean_exp_q(bumpy_q(action), log_density, temperature)
    error = float(estimates.mean()) - soft_maximum(bumpy_q, temperature)
    assert abs(error) < 4 * float(estimates.std()) / math.sqrt(repeats) + 1e-3
    assert abs(error) < 0.02 * temperature


def test_spread_falls_with_the_square_root_of_the_number_of_proposals() -> None:
    counts = [40, 160, 640, 2560]
    spreads = []
    for count in counts:
        action, log_density = draw("uniform", (2000, count), seed=1)
        spreads.append(float(log_mean_exp_q(bumpy_q(action), log_density).std()))
    slope = np.polyfit(np.log(counts), np.log(spreads), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.03)


def test_a_few_proposals_underestimate_the_integral_and_more_do_so_less() -> None:
    bias = {}
    for count in (10, 40, 160):
        action, log_density = draw("uniform", (20_000, count), seed=2)
        mean = float(log_mean_exp_q(bumpy_q(action), log_density).mean())
        bias[count] = mean - soft_maximum(bumpy_q)
    assert bias[10] < 3 * bias[40] < 9 * bias[160] < 0


def test_a_constant_q_gives_the_log_volume_for_any_number_of_proposals() -> None:
    low, high = torch.tensor([-1.0, 0.0]).double(), torch.tensor([2.0, 5.0]).double()
    for count in (1, 3, 30):
        action = uniform_actions((count,), low, high, seeded(3))
        estimate = log_mean_exp_q(0.7 + 0 * action.sum(-1), uniform_log_density(low, high), 2.0)
        assert float(estimate) == pytest.approx(0.7 + 2.0 * math.log(15.0), abs=1e-12)


@given(table=tables, temperature=temperatures)
@settings(max_examples=60, deadline=None)
def test_agrees_with_a_plain_loop(table: tuple[np.ndarray, np.ndarray], temperature: float) -> None:
    q_values, log_densities = map(torch.from_numpy, table)
    for row, (q_row, density_row) in enumerate(zip(*table, strict=True)):
        terms = [q / temperature - m for q, m in zip(q_row, density_row, strict=True)]
        top = max(terms)
        mean = math.fsum(math.exp(term - top) for term in terms) / len(terms)
        estimate = log_mean_exp_q(q_values, log_densities, temperature)[row]
        assert float(estimate) == pytest.approx(temperature * (top + math.log(mean)), abs=1e-9)


@given(table=tables, temperature=temperatures)
@settings(max_examples=60, deadline=None)
def test_lies_between_the_largest_term_minus_log_n_and_the_largest_term(
    table: tuple[np.ndarray, np.ndarray], temperature: float
) -> None:
    q_values, log_densities = map(torch.from_numpy, table)
    largest = temperature * (q_values / temperature - log_densities).amax(dim=-1)
    log_count = temperature * math.log(q_values.shape[-1])
    estimate = log_mean_exp_q(q_values, log_densities, temperature)
    assert (estimate <= largest + 1e-9).all()
    assert (estimate >= largest - log_count - 1e-9).all()


@given(table=tables, temperature=temperatures, shift=st.floats(-100, 100))
@settings(max_examples=60, deadline=None)
def test_a_shift_of_q_shifts_the_estimate(
    table: tuple[np.ndarray, np.ndarray], temperature: float, shift: float
) -> None:
    q_values, log_densities = map(torch.from_numpy, table)
    before = log_mean_exp_q(q_values, log_densities, temperature)
    after = log_mean_exp_q(q_values + shift, log_densities, temperature)
    torch.testing.assert_close(after, before + shift, rtol=0, atol=1e-9)


@given(table=tables, scale=st.floats(0.05, 20.0))
@settings(max_examples=60, deadline=None)
def test_other_action_units_add_the_log_of_the_scale_and_nothing_else(
    table: tuple[np.ndarray, np.ndarray], scale: float
) -> None:
    # The same samples in units `scale` times larger have a density `scale` times smaller.
    q_values, log_densities = map(torch.from_numpy, table)
    before = log_mean_exp_q(q_values, log_densities, 2.0)
    after = log_mean_exp_q(q_values, log_densities - math.log(scale), 2.0)
    torch.testing.assert_close(after, before + 2.0 * math.log(scale), rtol=0, atol=1e-9)


def test_order_of_proposals_and_repeating_all_of_them_do_not_matter() -> None:
    action, log_density = draw("mixture", (4, 30), seed=4)
    q_values, order = bumpy_q(action), torch.randperm(30, generator=seeded(4))
    estimate = log_mean_exp_q(q_values, log_density)
    torch.testing.assert_close(estimate, log_mean_exp_q(q_values[:, order], log_density[:, order]))
    twice = log_mean_exp_q(q_values.repeat(1, 2), log_density.repeat(1, 2))
    torch.testing.assert_close(estimate, twice)


@pytest.mark.parametrize(("temperature", "limit"), [(1e-3, "max"), (1e5, "mean")])
def test_temperature_goes_from_the_maximum_to_the_mean(temperature: float, limit: str) -> None:
    action, log_density = draw("uniform", (500,), seed=5)
    q_values = bumpy_q(action)
    above_volume = log_mean_exp_q(q_values, log_density, temperature) - temperature * math.log(4.0)
    expected = q_values.max() if limit == "max" else q_values.mean()
    assert float(above_volume) == pytest.approx(float(expected), abs=0.01)


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_huge_values_stay_finite(size: float) -> None:
    q_values = (size + torch.arange(5.0)).requires_grad_()
    estimate = log_mean_exp_q(q_values, torch.tensor(-1.0))
    estimate.backward()
    assert q_values.grad is not None
    assert torch.isfinite(estimate)
    assert torch.isfinite(q_values.grad).all()


def test_the_mixture_density_spreads_less_than_separate_densities() -> None:
    action, own = draw("mixture", (4000, 30), seed=6)
    inside = [policy(0.6, 0.9).log_prob(action), policy(-0.2, 1.1).log_prob(action)]
    densities = torch.stack([uniform_log_density(LOW, HIGH).expand_as(own), *inside])
    mixed = torch.logsumexp(densities, dim=0) - math.log(3.0)
    separate, balanced = (log_mean_exp_q(bumpy_q(action), density) for density in (own, mixed))
    assert float(balanced.std()) < float(separate.std())
    everything = log_mean_exp_q(bumpy_q(action).flatten(), mixed.flatten())
    assert float(everything) == pytest.approx(soft_maximum(bumpy_q), abs=0.01)


# ----------------------------------------------------------------------------- axes and shapes


@pytest.mark.parametrize("dim", [0, 1, 2, -1, -2, -3])
def test_reduces_the_axis_it_is_told(dim: int) -> None:
    generator = seeded(7)
    q_values = torch.randn((2, 3, 4), generator=generator, dtype=torch.float64)
    log_densities = torch.randn((2, 3, 4), generator=generator, dtype=torch.float64)
    expected = log_mean_exp_q(q_values.movedim(dim, -1), log_densities.movedim(dim, -1))
    torch.testing.assert_close(log_mean_exp_q(q_values, log_densities, dim=dim), expected)
    assert expected.shape == torch.Size([n for axis, n in enumerate((2, 3, 4)) if axis != dim % 3])


def test_one_log_density_for_all_and_one_per_proposal_broadcast() -> None:
    q_values = torch.randn((2, 5, 7), generator=seeded(8))
    for shape in ((), (1,), (7,), (5, 7), (5, 1), (1, 5, 7), (2, 5, 7)):
        log_densities = torch.randn(shape, generator=seeded(9))
        expected = log_mean_exp_q(q_values, log_densities.expand(2, 5, 7).clone())
        torch.testing.assert_close(log_mean_exp_q(q_values, log_densities), expected)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((64, 1, 30), r"would enlarge q_values of shape \(64, 30\) to \(64, 64, 30\)"),
        ((2, 64, 30), r"would enlarge"),
        ((64,), r"do not broadcast to q_values of shape \(64, 30\)"),
        ((30, 64), r"do not broadcast"),
    ],
)
def test_log_densities_of_another_shape_are_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        log_mean_exp_q(torch.zeros(64, 30), torch.zeros(shape))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be positive"):
        log_mean_exp_q(torch.zeros(2, 3), torch.zeros(2, 3), temperature)


def test_no_proposals_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"^At least one proposal"):
        log_mean_exp_q(torch.zeros(2, 0), torch.zeros(2, 0))


# ----------------------------------------------------------------------------- the penalty


def penalty_inputs(lead: tuple[int, ...], seed: int = 10) -> tuple[Tensor, Tensor, Tensor]:
    generator = seeded(seed)
    batch, count = 6, 9
    return (
        torch.randn((*lead, batch, count), generator=generator, dtype=torch.float64),
        torch.randn((batch, count), generator=generator, dtype=torch.float64),
        torch.randn((*lead, batch), generator=generator, dtype=torch.float64),
    )


@pytest.mark.parametrize("lead", [(), (2,), (3, 2)])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_penalty_is_the_batch_mean_of_soft_maximum_minus_data(
    lead: tuple[int, ...], temperature: float
) -> None:
    proposal_q, log_density, data_q = penalty_inputs(lead)
    penalty = cql_penalty(proposal_q, log_density, data_q, temperature)
    assert penalty.shape == lead
    for index in np.ndindex(lead):
        states = [
            float(log_mean_exp_q(proposal_q[index][b], log_density[b], temperature))
            - float(data_q[index][b])
            for b in range(6)
        ]
        assert float(penalty[index]) == pytest.approx(math.fsum(states) / 6, abs=1e-12)


@given(shifts=arrays(np.float64, 6, elements=st.floats(-50, 50)), temperature=temperatures)
@settings(max_examples=60, deadline=None)
def test_penalty_ignores_a_constant_per_state(shifts: np.ndarray, temperature: float) -> None:
    proposal_q, log_density, data_q = penalty_inputs((2,))
    shift = torch.from_numpy(shifts)
    before = cql_penalty(proposal_q, log_density, data_q, temperature)
    after = cql_penalty(proposal_q + shift.unsqueeze(-1), log_density, data_q + shift, temperature)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-10)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_gradient_is_softmax_over_proposals_minus_the_data(temperature: float) -> None:
    proposal_q, log_density, data_q = penalty_inputs((2,))
    proposal_q.requires_grad_()
    data_q.requires_grad_()
    cql_penalty(proposal_q, log_density, data_q, temperature).sum().backward()
    assert proposal_q.grad is not None
    assert data_q.grad is not None
    expected = torch.softmax(proposal_q.detach() / temperature - log_density, dim=-1) / 6
    torch.testing.assert_close(proposal_q.grad, expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(data_q.grad, torch.full_like(data_q, -1 / 6), rtol=0, atol=1e-14)
    per_state = proposal_q.grad.sum(-1) + data_q.grad
    assert float(per_state.abs().max()) < 1e-14


def test_gradient_agrees_with_finite_differences() -> None:
    proposal_q, log_density, data_q = penalty_inputs((), seed=11)
    assert torch.autograd.gradcheck(
        lambda q, d: cql_penalty(q, log_density, d, 2.0),
        (proposal_q.requires_grad_(), data_q.requires_grad_()),
    )


def test_leaving_out_log_n_changes_the_value_and_no_gradient() -> None:
    proposal_q, log_density, _ = penalty_inputs(())
    proposal_q.requires_grad_()
    with_log_n = log_mean_exp_q(proposal_q, log_density).sum()
    without = torch.logsumexp(proposal_q - log_density, dim=-1).sum()
    assert (without - with_log_n).item() == pytest.approx(6 * math.log(9), abs=1e-12)
    first, second = (torch.autograd.grad(x, proposal_q)[0] for x in (with_log_n, without))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-15)


def test_the_push_down_finds_a_narrow_peak() -> None:
    def narrow(action: Tensor) -> Tensor:
        return 5.0 * torch.exp(-0.5 * ((action[..., 0] - 1.2) / 0.08) ** 2)

    action, log_density = draw("mixture", (3000, 30), seed=12)
    q_values = narrow(action).requires_grad_()
    data_q = torch.zeros(3000, dtype=torch.float64)
    cql_penalty(q_values, log_density, data_q).backward()
    assert q_values.grad is not None
    on_peak = (action[..., 0] - 1.2).abs() < 0.24
    share = float(q_values.grad[on_peak].sum())
    thirds = cql_penalty(
        q_values.reshape(-1, 3), log_density.reshape(-1, 3), data_q.repeat_interleave(10)
    )
    (in_threes,) = torch.autograd.grad(thirds, q_values)
    assert share > 0.4
    assert float(in_threes[on_peak].sum()) < 0.5 * share


def test_gradients_reach_the_proposals_densities_when_they_carry_any() -> None:
    # Neither function detaches: whoever samples decides. CQL samples under no_grad.
    proposal_q, log_density, data_q = penalty_inputs(())
    log_density.requires_grad_()
    cql_penalty(proposal_q, log_density, data_q, 2.0).backward()
    assert log_density.grad is not None
    expected = -2.0 * torch.softmax(proposal_q / 2.0 - log_density.detach(), dim=-1) / 6
    torch.testing.assert_close(log_density.grad, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("shape", [(64, 1), (1,), (), (2, 64), (63,), (64, 30)])
def test_data_q_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="data_q must have the shape of proposal_q without"):
        cql_penalty(torch.zeros(64, 30), torch.zeros(64, 30), torch.zeros(shape))


def test_errors_of_the_estimate_reach_the_caller_of_the_penalty() -> None:
    with pytest.raises(ValueError, match="temperature must be positive"):
        cql_penalty(torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(4), temperature=0.0)
    with pytest.raises(ValueError, match="would enlarge"):
        cql_penalty(torch.zeros(4, 3), torch.zeros(4, 1, 3), torch.zeros(4))


def test_precision_of_the_inputs_is_kept() -> None:
    for dtype in (torch.float32, torch.float64):
        penalty = cql_penalty(*(x.to(dtype) for x in penalty_inputs((2,))))
        assert penalty.dtype == dtype
