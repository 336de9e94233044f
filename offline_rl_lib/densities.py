"""Densities on an action box: the tanh-normal and the uniform distribution.

Every density here is a density *in the environment's units*: probability per unit of action, on
the box ``[low, high]`` that the environment declares. Log-densities are summed over the action
dimensions, so they are the log of one joint density per action vector.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

BoxBound = Tensor | npt.NDArray[np.floating] | Sequence[float]

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


def _floating(values: Tensor | npt.ArrayLike) -> Tensor:
    tensor = torch.as_tensor(values)
    return tensor if tensor.is_floating_point() else tensor.to(torch.get_default_dtype())


def as_box(low: BoxBound, high: BoxBound) -> tuple[Tensor, Tensor]:
    """Check the bounds of an action box and return them as floating-point tensors.

    Args:
        low: lower bounds, shape ``(d,)``, in the environment's units.
        high: upper bounds, shape ``(d,)``.

    Raises:
        ValueError: shapes differ, a bound is infinite or NaN, or ``low >= high`` somewhere.
    """
    low_tensor, high_tensor = _floating(low), _floating(high)
    if low_tensor.dim() != 1 or low_tensor.shape != high_tensor.shape:
        raise ValueError(
            f"The bounds of an action box must both have shape (d,); got low with shape "
            f"{tuple(low_tensor.shape)} and high with shape {tuple(high_tensor.shape)}."
        )
    # As plain numbers: the agents check their box at every update, and d is small.
    widths = (high_tensor - low_tensor).tolist()
    if not all(map(math.isfinite, widths)):
        raise ValueError(
            f"An action box needs finite bounds; got low={low_tensor.tolist()}, "
            f"high={high_tensor.tolist()}. Rescale the action space, for example with "
            "gymnasium.wrappers.RescaleAction."
        )
    if not all(width > 0 for width in widths):
        raise ValueError(
            f"Every lower bound must be below its upper bound; got low={low_tensor.tolist()}, "
            f"high={high_tensor.tolist()}."
        )
    return low_tensor, high_tensor


def log_tanh_jacobian(pre_tanh: Tensor) -> Tensor:
    """Return ``log(1 - tanh(u)**2)``, elementwise, without cancellation.

    The direct formula subtracts two numbers that agree to all digits once ``|u|`` exceeds 9 in
    float32. This one rewrites ``1 - tanh(u)**2 = 4 / (exp(u) + exp(-u))**2`` and takes the
    logarithm term by term: ``2 * (log 2 - u - softplus(-2u))``.

    Args:
        pre_tanh: ``u``, any shape, no unit.
    """
    return 2.0 * (math.log(2.0) - pre_tanh - F.softplus(-2.0 * pre_tanh))


class TanhNormal:
    """The distribution of ``mid + half * tanh(u)`` with ``u ~ Normal(mean, std)``.

    ``mid = (low + high) / 2`` and ``half = (high - low) / 2``, per action dimension. This is the
    policy class of SAC (Haarnoja et al. 2018, appendix C), written for any finite box.

    Args:
        mean: mean of the normal *before* the tanh, shape ``(..., d)``, no unit.
        std: its standard deviation, same shape, above zero.
        low: lower bounds of the box, shape ``(d,)``, in the environment's units.
        high: upper bounds, shape ``(d,)``.
        validate_args: check ``mean``, ``std``, the box, and that scored actions lie in it. The
            agents switch this off inside their updates, where the values come from a network that
            bounds them, and check the data's actions themselves.

    Raises:
        ValueError: shapes do not fit, ``std`` is not positive, or the box is not finite.
    """

    def __init__(
        self,
        mean: Tensor,
        std: Tensor,
        low: BoxBound,
        high: BoxBound,
        *,
        validate_args: bool = True,
    ) -> None:
        if validate_args:
            # Whole numbers would otherwise make an integer box and round the bounds away.
            mean, std = _floating(mean), _floating(std)
        self.mean, self.std, self._validate_args = mean, std, validate_args
        self.low = torch.as_tensor(low, dtype=mean.dtype, device=mean.device)
        self.high = torch.as_tensor(high, dtype=mean.dtype, device=mean.device)
        if validate_args:
            # The box is checked as it is used: a narrow one far from zero may vanish in float32.
            as_box(self.low, self.high)
            if mean.shape != std.shape or mean.shape[-1:] != self.low.shape:
                raise ValueError(
                    f"mean and std must have the same shape (..., d) with d={self.low.shape[0]} "
                    f"from the box; got mean {tuple(mean.shape)} and std {tuple(std.shape)}."
                )
            if not torch.isfinite(mean).all():
                raise ValueError("mean contains NaN or infinite values.")
            if not ((std > 0) & torch.isfinite(std)).all():
                raise ValueError(
                    f"std must be positive and finite everywhere; its smallest value is "
                    f"{std.min().item():g}."
                )
        self.mid = (self.low + self.high) / 2
        self.half = (self.high - self.low) / 2

    @property
    def mode(self) -> Tensor:
        """The policy's deterministic action ``mid + half * tanh(mean)``, shape ``(..., d)``.

        It is the image of the normal's mode, and the *median* of each action dimension. The peak
        of the squashed density lies elsewhere, because the tanh moves density to the edges.
        """
        return self._squash(self.mean)

    def rsample(
        self, shape: tuple[int, ...] = (), generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw actions of shape ``shape + (..., d)`` that carry gradients to mean and std."""
        return self._squash(self._sample_pre_tanh(shape, generator))

    def sample(
        self, shape: tuple[int, ...] = (), generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw actions of shape ``shape + (..., d)`` without gradients."""
        with torch.no_grad():
            return self.rsample(shape, generator)

    def rsample_with_log_prob(
        self, shape: tuple[int, ...] = (), generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw actions and score each on its own pre-tanh value.

        The score needs no inverse tanh, so it stays exact where the action has saturated at the
        edge of the box in floating point.

        Returns:
            Actions of shape ``shape + (..., d)`` and log-densities of shape ``shape + (...)``.
        """
        pre_tanh = self._sample_pre_tanh(shape, generator)
        return self._squash(pre_tanh), self._log_prob_of_pre_tanh(pre_tanh)

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-density of given actions, per unit of action volume, summed over dimensions.

        At a bound the true log-density is minus infinity. An action closer to a bound than
        ``8 * eps`` of the box's half-width (``eps`` of the action's dtype) is scored as if it
        were that far inside, so that data recorded at a bound has a finite score and gradient.

        Args:
            action: in the environment's units, inside the box. Its shape broadcasts with that of
                the mean, ``(..., d)``; samples stand in front, ``(N, B, d)`` for a mean ``(B, d)``.

        Returns:
            The broadcast shape without ``d``.

        Raises:
            ValueError: an action lies outside the box, is NaN, or has another dimension.
        """
        action = _floating(action)
        if action.shape[-1:] != self.low.shape:
            raise ValueError(
                f"Actions must have shape (..., {self.low.shape[0]}); got {tuple(action.shape)}."
            )
        if self._validate_args:
            require_inside(action, self.low, self.high)
        # Distances to both bounds in units of half the width: 1 + y and 1 - y for y in [-1, 1].
        # atanh(y) = (log(1 + y) - log(1 - y)) / 2 keeps full precision near either bound.
        inside = 8 * torch.finfo(action.dtype).eps
        above_low = ((action - self.low) / self.half).clamp(min=inside)
        below_high = ((self.high - action) / self.half).clamp(min=inside)
        return self._log_prob_of_pre_tanh(0.5 * (above_low.log() - below_high.log()))

    def _sample_pre_tanh(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        noise = torch.randn(
            (*shape, *self.mean.shape),
            dtype=self.mean.dtype,
            device=self.mean.device,
            generator=generator,
        )
        return self.mean + self.std * noise

    def _squash(self, pre_tanh: Tensor) -> Tensor:
        # The clamp only removes the last-bit rounding of mid + half, which can leave the box.
        return (self.mid + self.half * torch.tanh(pre_tanh)).clamp(self.low, self.high)

    def _log_prob_of_pre_tanh(self, pre_tanh: Tensor) -> Tensor:
        standardised = (pre_tanh - self.mean) / self.std
        log_normal = -0.5 * standardised.square() - self.std.log() - LOG_SQRT_2PI
        return (log_normal - self.half.log() - log_tanh_jacobian(pre_tanh)).sum(dim=-1)


def require_inside(action: Tensor, low: Tensor, high: Tensor) -> None:
    """Refuse actions outside a box.

    Args:
        action: shape ``(..., d)``, in the environment's units.
        low: lower bounds, shape ``(d,)``.
        high: upper bounds, shape ``(d,)``.

    Raises:
        ValueError: an action lies outside the box or is NaN.
    """
    outside = ~((action >= low) & (action <= high))  # so that NaN is outside
    if outside.any():
        rows = outside.any(dim=-1)
        example = action[rows].reshape(-1, low.shape[0])[0].tolist()
        raise ValueError(
            f"{int(rows.sum())} action(s) lie outside the box low={low.tolist()}, "
            f"high={high.tolist()}; the first is {example}. Actions are expected in "
            "the environment's units."
        )


def uniform_log_density(low: BoxBound, high: BoxBound) -> Tensor:
    """Log-density of the uniform distribution on the box: minus the log of its volume.

    The sum of logarithms stays finite in thousands of dimensions, where the volume itself, or
    ``0.5**d``, has long left the range of floating point.

    Args:
        low: lower bounds, shape ``(d,)``, in the environment's units.
        high: upper bounds, shape ``(d,)``.

    Returns:
        A scalar tensor: the same value for every action in the box.
    """
    low_tensor, high_tensor = as_box(low, high)
    return -(high_tensor - low_tensor).log().sum()


def uniform_actions(
    shape: tuple[int, ...],
    low: BoxBound,
    high: BoxBound,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw actions uniformly from the box.

    Args:
        shape: leading shape of the result, for example ``(batch, proposals)``.
        low: lower bounds, shape ``(d,)``, in the environment's units.
        high: upper bounds, shape ``(d,)``.
        generator: source of randomness, on the bounds' device.

    Returns:
        Actions of shape ``shape + (d,)``.
    """
    low_tensor, high_tensor = as_box(low, high)
    fraction = torch.rand(
        (*shape, *low_tensor.shape),
        dtype=low_tensor.dtype,
        device=low_tensor.device,
        generator=generator,
    )
    return (low_tensor + (high_tensor - low_tensor) * fraction).clamp(low_tensor, high_tensor)
