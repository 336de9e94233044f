"""A movable picture of the tanh-normal density on an action box."""

from __future__ import annotations

from typing import Any

import torch
import traitlets

from offline_rl_lib.densities import TanhNormal
from offline_rl_lib.widgets.live_figure import LiveFigure, source

SMALLEST_BOX = 0.2


class TanhNormalFigure(LiveFigure):
    """Sliders for mean, std, low and high, the density they give, and a probe to read it with.

    Args:
        mean: mean of the normal before the tanh, from -2 to 2, no unit.
        std: its standard deviation, from 0.1 to 2, no unit.
        low: lower bound of the box, from -4 to 4, in the environment's units.
        high: upper bound, at least 0.2 above `low`.
        probe: the action whose density is shown as a number; it is kept inside the box.

    Raises:
        traitlets.TraitError: a value is outside its range, or the box is reversed or too small.
    """

    _esm = source("tanh_normal")
    sliders = ("mean", "std", "low", "high", "probe")

    mean = traitlets.Float(0.0, min=-2.0, max=2.0).tag(sync=True)
    std = traitlets.Float(0.5, min=0.1, max=2.0).tag(sync=True)
    low = traitlets.Float(-2.0, min=-4.0, max=4.0).tag(sync=True)
    high = traitlets.Float(2.0, min=-4.0, max=4.0).tag(sync=True)
    probe = traitlets.Float(0.5).tag(sync=True)

    def __init__(
        self,
        mean: float = 0.0,
        std: float = 0.5,
        low: float = -2.0,
        high: float = 2.0,
        probe: float = 0.5,
        **traits: Any,
    ) -> None:
        # Both bounds arrive together, so that their order is checked once and on both.
        super().__init__(mean=mean, std=std, low=low, high=high, probe=probe, **traits)

    @traitlets.validate("low", "high")
    def _ordered(self, proposal: dict[str, Any]) -> float:
        value = float(proposal["value"])
        low, high = (value, self.high) if proposal["trait"].name == "low" else (self.low, value)
        if high - low < SMALLEST_BOX - 1e-9:
            raise traitlets.TraitError(
                f"high must be at least {SMALLEST_BOX} above low; got low={low:g}, high={high:g}"
            )
        return value

    @property
    def distribution(self) -> TanhNormal:
        """The distribution that the sliders show now, one action dimension, float64."""
        return TanhNormal(
            torch.tensor([self.mean], dtype=torch.float64),
            torch.tensor([self.std], dtype=torch.float64),
            torch.tensor([self.low], dtype=torch.float64),
            torch.tensor([self.high], dtype=torch.float64),
        )
