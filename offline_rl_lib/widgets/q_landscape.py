"""Q over torque in one state of the pendulum, with and without the penalty, and the truth."""

from __future__ import annotations

import json
from typing import Any

import traitlets

from offline_rl_lib.widgets.live_figure import LiveFigure, source


class QLandscapeFigure(LiveFigure):
    """Sliders for the state, and one that switches the penalty on.

    Args:
        landscapes: what :func:`offline_rl_lib.failure.store_landscapes` stored.
        penalty: 0 shows the agent without the penalty, 1 the one with it.
        angle: place of the state on the grid of angles, 0 to 24; 12 is upright.
        velocity: place of the state on the grid of velocities, 0 to 4; 2 is standing still.

    Raises:
        traitlets.TraitError: a value is outside its range.
    """

    _esm = source("q_landscape")
    sliders = ("penalty", "angle", "velocity")

    penalty = traitlets.Enum((0, 1), 0).tag(sync=True)
    angle = traitlets.Int(0, min=0, max=24).tag(sync=True)
    velocity = traitlets.Int(2, min=0, max=4).tag(sync=True)
    landscapes = traitlets.Unicode().tag(sync=True)  # JSON: one line in the stored notebook

    def __init__(
        self,
        landscapes: dict[str, Any],
        penalty: int = 0,
        angle: int = 0,
        velocity: int = 2,
        **traits: Any,
    ) -> None:
        text = json.dumps(landscapes, separators=(",", ":"))
        super().__init__(landscapes=text, penalty=penalty, angle=angle, velocity=velocity, **traits)
