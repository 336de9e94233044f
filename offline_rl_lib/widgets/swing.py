"""The pendulum under a stored policy, beside Q over torque at the state of the moment."""

from __future__ import annotations

from typing import Any

import traitlets

from offline_rl_lib.pendulum import EPISODE_STEPS, MAX_SPEED
from offline_rl_lib.watching import NAMES, Watched
from offline_rl_lib.widgets.live_figure import LiveFigure, source


class SwingFigure(LiveFigure):
    """A choice of policies, sliders for the start and the moment, and buttons that play.

    Dynamics, policies and critics are computed in the browser, in 64 bits.

    Args:
        watched: what :func:`offline_rl_lib.watching.load_watched_policies` read.
        policy: one of ``offline_rl_lib.watching.NAMES``.
        angle: rad, where the episode starts; 0 is upright.
        velocity: rad/s.
        time: step of the episode that is shown, 0 to 200.

    Raises:
        traitlets.TraitError: a value is outside its range, or the policy is unknown.
    """

    _esm = source("swing")
    sliders = ("time", "angle", "velocity")

    policy = traitlets.Enum(NAMES, "penalty off, narrow data").tag(sync=True)
    time = traitlets.Int(0, min=0, max=EPISODE_STEPS).tag(sync=True)
    angle = traitlets.Float(3.14, min=-3.14, max=3.14).tag(sync=True)
    velocity = traitlets.Float(0.0, min=-MAX_SPEED, max=MAX_SPEED).tag(sync=True)
    watched = traitlets.Unicode().tag(sync=True)  # JSON: one line in the stored notebook

    def __init__(
        self,
        watched: Watched,
        policy: str = "penalty off, narrow data",
        angle: float = 3.14,
        velocity: float = 0.0,
        time: int = 0,
        **traits: Any,
    ) -> None:
        super().__init__(
            watched=watched.text, policy=policy, angle=angle, velocity=velocity, time=time, **traits
        )

    def __repr__(self) -> str:
        """Show the policy beside the sliders."""
        return super().__repr__().replace("(", f"(policy={self.policy!r}, ", 1)
