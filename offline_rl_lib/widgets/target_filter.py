"""Polyak averaging as a filter: a target that follows a source which jumps and is noisy."""

from __future__ import annotations

from typing import Any

import traitlets

from offline_rl_lib.widgets.live_figure import LiveFigure, source


class TargetFilterFigure(LiveFigure):
    """Sliders for the update rate and the noise, and a probe to read the target with.

    The source is 1 plus noise from the first update on, the target starts at 0.

    Args:
        rate: tau, one of 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.
        noise: standard deviation of the source's noise, from 0 to 1.
        updates: updates shown, one of 50, 100, 200, 500, 1000, 2000, 5000.
        probe: where the target is read, as a share of the updates, from 0 to 1.

    Raises:
        traitlets.TraitError: a value is outside its range.
    """

    _esm = source("target_filter")
    sliders = ("rate", "noise", "updates", "probe")

    rate = traitlets.Enum((0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0), 0.005).tag(
        sync=True
    )
    noise = traitlets.Float(0.3, min=0.0, max=1.0).tag(sync=True)
    updates = traitlets.Enum((50, 100, 200, 500, 1000, 2000, 5000), 1000).tag(sync=True)
    probe = traitlets.Float(0.14, min=0.0, max=1.0).tag(sync=True)

    def __init__(
        self,
        rate: float = 0.005,
        noise: float = 0.3,
        updates: int = 1000,
        probe: float = 0.14,
        **traits: Any,
    ) -> None:
        super().__init__(rate=rate, noise=noise, updates=updates, probe=probe, **traits)
