"""The densities on an action box: values, shapes, boxes, saturation, errors, randomness."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from offline_rl_lib import TanhNormal, uniform_actions, uniform_log_density
from offline_rl_lib.densities import as_box, log_tanh_jacobian

DOUBLE = torch.float64
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    ),
]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def column(value: float, dtype: torch.dtype = DOUBLE) -> Tensor:
    return torch.tensor([value], dtype=dtype)


def edge_graded_rule(low: float, high: float, panels_per_halving: int = 4) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes and weights on [low, high], in panels that shrink towards the bounds.

    A wide normal piles density up at the bounds, where evenly spaced panels miss it.
    """
    nodes, weights = np.polynomial.legendre.leggauss(8)
    distance = (high - low) / 2 * 2.0 ** -np.arange(0, 44, 1 / panels_per_halving)
    edges = np.concatenate([low + distance[::-1], (high - distance)[1:]])
    middle, radius = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
    points = (middle[:, None] + radius[:, None] * nodes).ravel()
    return torch.from_numpy(points), torch.from_numpy((radius[:, None] * weights).ravel())


@st.composite
def boxes(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """One to four dimensions, any position, widths from 0.01 to 200, float64."""
    size = draw(st.integers(1, 4))
    bound = st.floats(-100, 100)
    low = torch.tensor([draw(bound) for _ in range(size)], dtype=DOUBLE)
    width = torch.tensor([draw(st.floats(0.01, 200)) for _ in range(size)], dtype=DOUBLE)
    return low, low + width


@st.composite
def policies(draw: st.DrawFn, widest: float = 1.0) -> TanhNormal:
    low, high = draw(boxes())
    mean = torch.tensor([draw(st.floats(-3, 3)) for _ in low], dtype=DOUBLE)
    std = torch.tensor([draw(st.floats(0.05, widest)) for _ in low], dtype=DOUBLE)
    return TanhNormal(mean, std, low, high)


# --- shapes, dtype, device ------------------------------------------------------------------------


@pytest.mark.parametrize("sample_shape", [(), (5,), (2, 3)])
@pytest.mark.parametrize("batch_shape", [(), (64,), (4, 7)])
@pytest.mark.parametrize("size", [1, 3])
def test_shapes(size: int, batch_shape: tuple[int, ...], sample_shape: tuple[int, ...]) -> None:
    mean = torch.zeros(*batch_shape, size)
    policy = TanhNormal(mean, torch.ones_like(mean), [-2.0] * size, [3.0] * size)
    action, log_prob = policy.rsample_with_log_prob(sample_shape, generator=seeded(0))
    assert action.shape == (*sample_shape, *batch_shape, size)
    assert log_prob.shape == (*sample_shape, *batch_shape)
    assert policy.rsample(sample_shape).shape == action.shape
    assert policy.sample(sample_shape).shape == action.shape
    assert policy.log_prob(action).shape == log_prob.shape
    assert policy.mode.shape == mean.shape
    drawn = uniform_actions((*sample_shape, *batch_shape), policy.low, policy.high)
    assert drawn.shape == action.shape
    assert uniform_log_density(policy.low, policy.high).shape == ()


def test_log_prob_is_the_sum_over_dimensions() -> None:
    mean, std = torch.tensor([0.3, -1.0, 0.8]).double(), torch.tensor([0.5, 1.2, 0.1]).double()
    low, high = torch.tensor([-1.0, 0.0, -3.0]).double(), torch.tensor([1.0, 5.0, -2.5]).double()
    policy = TanhNormal(mean, std, low, high)
    action = policy.sample((6,), generator=seeded(1))
    alone = sum(
        TanhNormal(mean[i : i + 1], std[i : i + 1], low[i : i + 1], high[i : i + 1]).log_prob(
            action[:, i : i + 1]
        )
        for i in range(3)
    )
    torch.testing.assert_close(policy.log_prob(action), alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("bound", [list, np.float64, np.float32, torch.tensor])
def test_the_policy_keeps_the_dtype_of_its_mean(dtype: torch.dtype, bound: Any) -> None:
    """Gymnasium's bounds are float32 arrays, a network's mean is float32: nothing is promoted."""
    as_bound: Callable[[list[float]], Any] = (
        bound if bound in (list, torch.tensor) else (lambda values: np.array(values, dtype=bound))
    )
    mean = torch.zeros(4, 2, dtype=dtype)
    policy = TanhNormal(mean, torch.ones_like(mean), as_bound([-1.0, 0.0]), as_bound([1.0, 5.0]))
    action, log_prob = policy.rsample_with_log_prob((3,))
    assert action.dtype == log_prob.dtype == policy.mode.dtype == dtype
    assert policy.log_prob(action).dtype == dtype


@pytest.mark.parametrize("device", DEVICES)
def test_everything_stays_on_its_device(device: str) -> None:
    generator = torch.Generator(device).manual_seed(0)
    mean = torch.zeros(4, 2, device=device)
    # The bounds come from an action space, as arrays of the host.
    policy = TanhNormal(mean, torch.ones_like(mean), np.array([-1.0, 0.0]), np.array([1.0, 5.0]))
    action, log_prob = policy.rsample_with_log_prob((3,), generator=generator)
    results = (action, log_prob, policy.mode, policy.sample((3,)), policy.log_prob(action))
    assert {result.device.type for result in results} == {device}
    drawn = uniform_actions((5,), policy.low, policy.high, generator=generator)
    assert drawn.device.type == uniform_log_density(policy.low, policy.high).device.type == device


def test_bounds_given_as_a_list_keep_double_precision() -> None:
    """0.1 in float32 lies above 0.1: a data action at the bound would count as outside."""
    policy = TanhNormal(column(0.0), column(1.0), [0.1], [0.3])
    assert (policy.low.item(), policy.high.item()) == (0.1, 0.3)
    assert torch.isfinite(policy.log_prob(column(0.1)))


def test_a_box_that_vanishes_in_the_mean_s_precision_is_refused() -> None:
    far, wider = np.array([1e8]), np.array([1e8 + 1])
    assert TanhNormal(column(0.0), column(1.0), far, wider).half.item() == 0.5
    with pytest.raises(ValueError, match="lower bound must be below"):
        TanhNormal(torch.zeros(1), torch.ones(1), far, wider)


def test_whole_numbers_are_read_as_floating_point() -> None:
    """An integer mean must not turn the box [-0.5, 0.5] into the integer box [0, 0]."""
    whole = TanhNormal(torch.tensor([0]), torch.tensor([1]), [-0.5], [0.5])
    exact = TanhNormal(torch.tensor([0.0]), torch.tensor([1.0]), [-0.5], [0.5])
    assert whole.log_prob(torch.tensor([0])) == exact.log_prob(torch.tensor([0.0]))
    assert torch.equal(whole.sample(generator=seeded(0)), exact.sample(generator=seeded(0)))
    assert uniform_actions((3,), [0], [4]).dtype == torch.float32
    assert uniform_log_density([0], [4]) == pytest.approx(-math.log(4))


# --- the density ----------------------------------------------------------------------------------


@given(policies())
@settings(max_examples=60, deadline=None)
def test_integrates_to_one_on_any_box(policy: TanhNormal) -> None:
    """R1: dimension by dimension, since the joint density is a product."""
    for i in range(policy.low.shape[0]):
        low, high = policy.low[i : i + 1], policy.high[i : i + 1]
        alone = TanhNormal(policy.mean[i : i + 1], policy.std[i : i + 1], low, high)
        # Relative to the box, so that a far-away narrow box does not cost the rule its digits.
        points, weights = edge_graded_rule(0.0, (high - low).item())
        points = (low + points).clamp(low, high)
        total = (alone.log_prob(points.unsqueeze(-1)).exp() * weights).sum()
        assert abs(total.item() - 1) < 1e-6


def test_joint_density_integrates_to_one_on_an_asymmetric_rectangle() -> None:
    """R1 in two dimensions: a scale counted once instead of per dimension would show here."""
    mean, std = torch.tensor([[0.7, -0.4], [0.5, 0.9]], dtype=DOUBLE)
    policy = TanhNormal(mean, std, [-2.0, 0.0], [2.0, 5.0])
    first, first_weight = edge_graded_rule(-2, 2, panels_per_halving=1)
    second, second_weight = edge_graded_rule(0, 5, panels_per_halving=1)
    total = 0.0
    for points, weight in zip(first.split(256), first_weight.split(256), strict=True):
        density = policy.log_prob(torch.cartesian_prod(points, second)).exp()
        total += float(weight @ density.view(len(points), -1) @ second_weight)
    assert total == pytest.approx(1, abs=1e-9)


@given(policies(), st.integers(0, 2**31))
@settings(max_examples=100, deadline=None)
def test_scale_of_the_box_enters_once_per_dimension(policy: TanhNormal, seed: int) -> None:
    """R2: the same pre-tanh noise on [-1, 1] scores higher by the sum of log half-widths."""
    unit = torch.ones_like(policy.low)
    standard = TanhNormal(policy.mean, policy.std, -unit, unit)
    _, on_box = policy.rsample_with_log_prob((5,), generator=seeded(seed))
    _, on_unit = standard.rsample_with_log_prob((5,), generator=seeded(seed))
    expected = on_unit - policy.half.log().sum()
    torch.testing.assert_close(on_box, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "largest", "tolerance"), [(torch.float32, 4.0, 2e-4), (DOUBLE, 8.0, 1e-9)]
)
@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (-2.0, 2.0), (0.0, 5.0)])
def test_sample_score_agrees_with_scoring_the_action(
    low: float, high: float, dtype: torch.dtype, largest: float, tolerance: float
) -> None:
    """R4: through the inverse tanh and back, where the action is not saturated."""
    policy = TanhNormal(column(0.5, dtype), column(2.0, dtype), [low], [high])
    action, log_prob = policy.rsample_with_log_prob((20_000,), generator=seeded(2))
    near = ((action - policy.mid) / policy.half).abs().squeeze(-1) < math.tanh(largest)
    assert near.sum() > 10_000
    assert (policy.log_prob(action) - log_prob)[near].abs().max() < tolerance


def test_agrees_with_torch_distributions() -> None:
    mean, std = torch.randn(2, 50, 3, generator=seeded(3), dtype=DOUBLE)
    low, high = torch.tensor([-1.0, -2.0, 0.0]).double(), torch.tensor([1.0, 2.0, 5.0]).double()
    policy = TanhNormal(mean, std.exp(), low, high)
    transforms = [
        torch.distributions.TanhTransform(cache_size=1),
        torch.distributions.AffineTransform((low + high) / 2, (high - low) / 2, event_dim=1),
    ]
    base = torch.distributions.Independent(torch.distributions.Normal(mean, std.exp()), 1)
    reference = torch.distributions.TransformedDistribution(base, transforms)
    action = policy.sample((4,), generator=seeded(4))
    action = action.clamp(low + 1e-3, high - 1e-3)
    torch.testing.assert_close(
        policy.log_prob(action), reference.log_prob(action), rtol=1e-9, atol=1e-9
    )


def test_samples_follow_the_distribution_function() -> None:
    """R6: Kolmogorov-Smirnov against Phi((atanh(y) - mean) / std), written with scipy."""
    policy = TanhNormal(column(0.8), column(0.7), [0.0], [5.0])
    action = policy.sample((20_000,), generator=seeded(5)).squeeze(-1).numpy()

    def distribution(value: np.ndarray) -> np.ndarray:
        return stats.norm.cdf((np.arctanh((value - 2.5) / 2.5) - 0.8) / 0.7)

    assert stats.kstest(action, distribution).pvalue > 1e-3


def test_entropy_by_sampling_agrees_with_quadrature() -> None:
    """R6: one million scores on a sample's own pre-tanh value, within four standard errors."""
    policy = TanhNormal(column(0.8), column(0.7), [0.0], [5.0])
    points, weights = edge_graded_rule(0.0, 5.0)
    log_prob = policy.log_prob(points.unsqueeze(-1))
    entropy = -(weights * log_prob.exp() * log_prob).sum()
    _, scores = policy.rsample_with_log_prob((1_000_000,), generator=seeded(6))
    standard_error = scores.std() / math.sqrt(len(scores))
    assert abs(-scores.mean() - entropy) < 4 * standard_error


def test_mode_is_the_image_of_the_mean_and_the_median() -> None:
    mean = torch.tensor([[0.7, -3.0]], dtype=DOUBLE)
    std = torch.tensor([[0.4, 2.0]], dtype=DOUBLE)
    policy = TanhNormal(mean, std, [-2.0, 0.0], [2.0, 5.0])
    expected = torch.tensor([[2 * math.tanh(0.7), 2.5 + 2.5 * math.tanh(-3.0)]], dtype=DOUBLE)
    torch.testing.assert_close(policy.mode, expected, rtol=1e-14, atol=0)
    action = policy.sample((40_000,), generator=seeded(7))
    below = (action <= policy.mode).double().mean(dim=0)
    assert (below - 0.5).abs().max() < 4 * 0.5 / math.sqrt(40_000)


def test_unchecked_construction_gives_the_same_numbers() -> None:
    """The agents switch validation off inside their updates."""
    mean, std = torch.randn(6, 2, generator=seeded(8)), torch.rand(6, 2, generator=seeded(9)) + 0.1
    low, high = torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 5.0])
    checked = TanhNormal(mean, std, low, high)
    unchecked = TanhNormal(mean, std, low, high, validate_args=False)
    assert all(
        torch.equal(one, other)
        for one, other in zip(
            checked.rsample_with_log_prob((3,), generator=seeded(0)),
            unchecked.rsample_with_log_prob((3,), generator=seeded(0)),
            strict=True,
        )
    )


# --- gradients ------------------------------------------------------------------------------------


def test_gradients_agree_with_finite_differences() -> None:
    low, high = torch.tensor([-1.0, 0.0]).double(), torch.tensor([1.0, 5.0]).double()
    mean = torch.randn(3, 2, generator=seeded(10), dtype=DOUBLE, requires_grad=True)
    std = (torch.rand(3, 2, generator=seeded(11), dtype=DOUBLE) + 0.3).requires_grad_()
    action = uniform_actions((3,), low, high, generator=seeded(12)).requires_grad_()

    def score(mean: Tensor, std: Tensor, action: Tensor) -> Tensor:
        return TanhNormal(mean, std, low, high).log_prob(action)

    def draw(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        return TanhNormal(mean, std, low, high).rsample_with_log_prob((), generator=seeded(13))

    assert torch.autograd.gradcheck(score, (mean, std, action))
    assert torch.autograd.gradcheck(draw, (mean, std))


def test_only_rsample_carries_gradients() -> None:
    mean = torch.zeros(2, requires_grad=True)
    policy = TanhNormal(mean, torch.ones(2), [-1.0, -1.0], [1.0, 1.0])
    assert policy.rsample().requires_grad
    assert all(part.requires_grad for part in policy.rsample_with_log_prob())
    assert not policy.sample().requires_grad
    drawn = policy.rsample(generator=seeded(0)), policy.sample(generator=seeded(0))
    assert torch.equal(*drawn)


# --- saturation and bounds ------------------------------------------------------------------------


def test_stable_jacobian_in_float32() -> None:
    """R3: against -2 log cosh u in float64, up to |u| = 20."""
    pre_tanh = torch.linspace(-20, 20, 4001)
    wide = pre_tanh.double().numpy()
    exact = -2 * (np.logaddexp(wide, -wide) - math.log(2))
    assert np.abs(log_tanh_jacobian(pre_tanh).numpy() - exact).max() < 2e-5


@pytest.mark.parametrize("value", [-50.0, -20.0, -9.5, 0.0, 9.5, 20.0, 50.0])
def test_saturated_samples_have_finite_value_and_gradient(value: float) -> None:
    """R3: up to |u| = 50 in float32, where tanh(u) has long rounded to one."""
    pre_tanh = torch.tensor([value], requires_grad=True)
    jacobian = log_tanh_jacobian(pre_tanh)
    (slope,) = torch.autograd.grad(jacobian.sum(), pre_tanh)
    assert torch.isfinite(jacobian).all()
    assert slope.item() == pytest.approx(-2 * math.tanh(value), abs=1e-5)

    # With a tiny std the sample's own pre-tanh value is the mean.
    mean = torch.tensor([value], requires_grad=True)
    std = torch.tensor([1e-3], requires_grad=True)
    action, log_prob = TanhNormal(mean, std, [-2.0], [2.0]).rsample_with_log_prob(
        generator=seeded(14)
    )
    (log_prob + action.sum()).backward()
    assert torch.isfinite(log_prob)
    # Peak of Normal(., 1e-3) and |u| = 50: both parts of the score are of size 100.
    exact = stats.norm.logpdf(0, scale=1e-3) - math.log(2)
    exact -= 2 * (math.log(2) - abs(value) - math.log1p(math.exp(-2 * abs(value))))
    noise = torch.randn(1, generator=seeded(14)).item()
    assert log_prob.item() == pytest.approx(exact - noise**2 / 2, abs=1e-2)
    for gradient in (mean.grad, std.grad):
        assert gradient is not None
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize(("low", "high"), [(-2.0, 2.0), (0.0, 5.0), (-0.1, 0.3)])
@pytest.mark.parametrize("side", [-1, 1])
def test_action_at_a_bound_is_scored_at_the_documented_clip(
    side: int, low: float, high: float, dtype: torch.dtype
) -> None:
    """R5: as if it were 8 eps of the half-width inside, with the value of that place."""
    mean, std = column(0.3, dtype).requires_grad_(), column(0.7, dtype).requires_grad_()
    policy = TanhNormal(mean, std, [low], [high])
    bound = (policy.high if side > 0 else policy.low).clone().requires_grad_()
    score = policy.log_prob(bound)
    inside = 8 * torch.finfo(dtype).eps
    # u = atanh(1 - inside), written without the subtraction that would round it away.
    clipped = side * 0.5 * (math.log(2) - math.log(inside))
    log_cosh = np.logaddexp(clipped, -clipped) - math.log(2)
    expected = stats.norm.logpdf(clipped, 0.3, 0.7) - math.log((high - low) / 2) + 2 * log_cosh
    assert score.item() == pytest.approx(expected, rel=2e-6 if dtype == torch.float32 else 1e-12)
    score.backward()
    for gradient in (mean.grad, std.grad, bound.grad):
        assert gradient is not None
        assert torch.isfinite(gradient).all()


@given(
    st.floats(-60, 60, width=32),
    st.floats(2**-10, 20, width=32),
    st.tuples(st.floats(-50, 50, width=32), st.floats(0.125, 50, width=32)),
)
@settings(max_examples=200, deadline=None)
def test_no_sample_ever_leaves_the_box(mean: float, std: float, box: tuple[float, float]) -> None:
    """Float32 rounding of mid + half must not push a saturated action past a bound."""
    low = torch.tensor([box[0]])
    high = low + box[1]
    policy = TanhNormal(torch.tensor([mean]), torch.tensor([std]), low, high)
    drawn = torch.cat(
        [
            policy.sample((200,), generator=seeded(0)),
            policy.rsample_with_log_prob((200,), generator=seeded(1))[0],
            policy.mode.unsqueeze(0),
            uniform_actions((200,), low, high, generator=seeded(2)),
        ]
    )
    assert ((drawn >= low) & (drawn <= high)).all()
    # So every drawn action can be scored, and its score is a number.
    assert torch.isfinite(policy.log_prob(drawn)).all()


# --- randomness -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "draw",
    [
        lambda policy, generator: policy.sample((50,), generator=generator),
        lambda policy, generator: policy.rsample((50,), generator=generator),
        lambda policy, generator: policy.rsample_with_log_prob((50,), generator=generator)[0],
        lambda policy, generator: uniform_actions(
            (50,), policy.low, policy.high, generator=generator
        ),
    ],
    ids=["sample", "rsample", "rsample_with_log_prob", "uniform_actions"],
)
def test_generators_are_reproducible(
    draw: Callable[[TanhNormal, torch.Generator], Tensor],
) -> None:
    policy = TanhNormal(torch.zeros(2), torch.ones(2), [-1.0, 0.0], [1.0, 5.0])
    before = torch.random.get_rng_state()
    first, again, other = (draw(policy, seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before), "the global generator was used"


def test_noise_has_the_full_precision_of_the_mean() -> None:
    action = TanhNormal(column(0.3), column(0.7), [-1.0], [1.0]).sample(generator=seeded(0))
    noise = torch.randn(1, dtype=DOUBLE, generator=seeded(0))
    torch.testing.assert_close(action, torch.tanh(0.3 + 0.7 * noise), rtol=1e-15, atol=0)


# --- the uniform density --------------------------------------------------------------------------


@given(boxes())
@settings(max_examples=100, deadline=None)
def test_uniform_log_density_is_minus_the_log_volume(box: tuple[Tensor, Tensor]) -> None:
    low, high = box
    volume = math.prod((high - low).tolist())
    assert uniform_log_density(low, high).item() == pytest.approx(-math.log(volume), abs=1e-10)


def test_uniform_log_density_is_finite_in_5000_dimensions() -> None:
    """R7: the volume itself, 4**5000, is beyond every floating-point number."""
    low, high = np.full(5_000, -2.0), np.full(5_000, 2.0)
    assert uniform_log_density(low, high).item() == pytest.approx(-5_000 * math.log(4), rel=1e-12)


def test_uniform_actions_have_the_precision_of_their_bounds() -> None:
    bounds = torch.zeros(1, dtype=DOUBLE), torch.ones(1, dtype=DOUBLE)
    actions = uniform_actions((1000,), *bounds, torch.Generator().manual_seed(0))
    assert actions.dtype == DOUBLE
    # Drawn in 32 bits and then widened, every action would be a multiple of 2^-24.
    assert (actions * 2**24 != (actions * 2**24).round()).any()


def test_uniform_actions_fill_the_whole_box() -> None:
    """R7: Kolmogorov-Smirnov per dimension; half of the box or [-1, 1] would fail."""
    low, high = np.array([-2.0, 0.0, -0.1]), np.array([2.0, 5.0, 0.3])
    action = uniform_actions((20_000,), low, high, generator=seeded(15)).numpy()
    for i in range(3):
        test = stats.kstest(action[:, i], stats.uniform(low[i], high[i] - low[i]).cdf)
        assert test.pvalue > 1e-3
    correlation = np.corrcoef(action.T) - np.eye(3)
    assert np.abs(correlation).max() < 4 / math.sqrt(20_000)


# --- bad input ------------------------------------------------------------------------------------

BAD_BOXES = [
    pytest.param([2.0], [-2.0], r"lower bound must be below.*low=\[2\.0\]", id="reversed"),
    pytest.param([1.0], [1.0], "lower bound must be below", id="empty"),
    pytest.param([-1.0, 3.0], [1.0, 2.0], "lower bound must be below", id="one reversed"),
    pytest.param([-math.inf], [2.0], "finite bounds.*-inf.*RescaleAction", id="infinite low"),
    pytest.param([0.0], [math.inf], "finite bounds.*RescaleAction", id="infinite high"),
    pytest.param([math.nan], [2.0], "finite bounds.*nan", id="nan"),
    pytest.param([-3e38], [3e38], "finite bounds.*RescaleAction", id="infinite width"),
    pytest.param([-1.0, -1.0], [1.0], r"shape \(d,\).*\(2,\).*\(1,\)", id="lengths differ"),
    pytest.param(np.float64(-1.0), np.float64(1.0), r"shape \(d,\)", id="scalars"),
    pytest.param([[-1.0]], [[1.0]], r"shape \(d,\).*\(1, 1\)", id="matrices"),
]


@pytest.mark.parametrize(("low", "high", "message"), BAD_BOXES)
def test_bad_boxes_are_refused_everywhere(low: Any, high: Any, message: str) -> None:
    size = np.size(low)
    for use in (
        lambda: as_box(low, high),
        lambda: TanhNormal(torch.zeros(size), torch.ones(size), low, high),
        lambda: uniform_log_density(low, high),
        lambda: uniform_actions((3,), low, high),
    ):
        with pytest.raises(ValueError, match=message):
            use()


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        pytest.param([0.0], [0.0], "std must be positive.*smallest value is 0", id="zero std"),
        pytest.param([0.0], [-1.0], "std must be positive.*smallest value is -1", id="negative"),
        pytest.param([0.0], [math.inf], "std must be positive and finite", id="infinite std"),
        pytest.param([0.0], [math.nan], "std must be positive and finite", id="nan std"),
        pytest.param([math.nan], [1.0], r"^mean contains NaN or infinite", id="nan mean"),
        pytest.param([math.inf], [1.0], r"^mean contains NaN or infinite", id="infinite mean"),
        pytest.param([0.0, 0.0], [1.0, 1.0], r"d=1 from the box.*mean \(2,\)", id="wrong size"),
        pytest.param([[0.0], [0.0]], [1.0], r"mean \(2, 1\) and std \(1,\)", id="shapes differ"),
        pytest.param(0.0, 1.0, r"same shape \(\.\.\., d\)", id="no action dimension"),
    ],
)
def test_bad_parameters_are_refused(mean: Any, std: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TanhNormal(torch.tensor(mean), torch.tensor(std), [-2.0], [2.0])


@pytest.mark.parametrize(
    ("action", "message"),
    [
        pytest.param([[0.0], [2.1]], r"1 action\(s\) lie outside.*the first is \[2\.0", id="above"),
        pytest.param([[-3.0], [2.5]], r"2 action\(s\).*the first is \[-3\.0\]", id="two outside"),
        pytest.param([[math.nan]], r"1 action\(s\).*the first is \[nan\]", id="nan"),
        pytest.param([[-math.inf]], r"the first is \[-inf\]", id="infinite"),
        pytest.param([[0.0, 0.0]], r"shape \(\.\.\., 1\); got \(1, 2\)", id="wrong size"),
        pytest.param(0.0, r"shape \(\.\.\., 1\); got \(\)", id="no action dimension"),
    ],
)
def test_bad_actions_are_refused(action: Any, message: str) -> None:
    policy = TanhNormal(torch.zeros(1), torch.ones(1), [-2.0], [2.0])
    with pytest.raises(ValueError, match=message):
        policy.log_prob(torch.tensor(action))


def test_one_dimension_outside_is_enough() -> None:
    policy = TanhNormal(torch.zeros(2), torch.ones(2), [-1.0, 0.0], [1.0, 5.0])
    with pytest.raises(ValueError, match=r"low=\[-1\.0, 0\.0\], high=\[1\.0, 5\.0\]"):
        policy.log_prob(torch.tensor([0.5, -0.5]))
