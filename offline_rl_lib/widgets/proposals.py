"""Proposals on a known critic: the estimate of the soft maximum beside the integral."""

from __future__ import annotations

from typing import Any

import traitlets

from offline_rl_lib.widgets.live_figure import LiveFigure, source


class ProposalsFigure(LiveFigure):
    """Sliders for the proposals of the logsumexp penalty, and the push that the penalty gives.

    The critic is the one of the chapter on the penalty, ``3 + s - (a + s)^2`` plus a spike at 1.4,
    in the state ``s = 0.5`` and on the box [-2, 2]; the data hold the action -0.5.

    Args:
        count: proposals per source, one of 1, 2, 3, 5, 10, 20, 50, 100.
        mean: mean before the tanh of the policy at the state, from -2 to 2.
        next_mean: the same at the next state.
        std: standard deviation of both before the tanh, from 0.1 to 1.5.
        weight: w, the weight of the penalty, from 0 to 10.
        draw: which draw of random numbers, from 1 to 50.

    Raises:
        traitlets.TraitError: a value is outside its range.
    """

    _esm = source("proposals")
    sliders = ("count", "mean", "next_mean", "std", "weight", "draw")

    count = traitlets.Enum((1, 2, 3, 5, 10, 20, 50, 100), 5).tag(sync=True)
    mean = traitlets.Float(-0.3, min=-2.0, max=2.0).tag(sync=True)
    next_mean = traitlets.Float(0.4, min=-2.0, max=2.0).tag(sync=True)
    std = traitlets.Float(0.5, min=0.1, max=1.5).tag(sync=True)
    weight = traitlets.Float(5.0, min=0.0, max=10.0).tag(sync=True)
    draw = traitlets.Int(1, min=1, max=50).tag(sync=True)

    def __init__(
        self,
        count: int = 5,
        mean: float = -0.3,
        next_mean: float = 0.4,
        std: float = 0.5,
        weight: float = 5.0,
        draw: int = 1,
        **traits: Any,
    ) -> None:
        super().__init__(
            count=count, mean=mean, next_mean=next_mean, std=std, weight=weight, draw=draw, **traits
        )
