"""The bound of tabular CQL on the book's grid world, under the penalty's weight."""

from __future__ import annotations

from typing import Any

import traitlets

from offline_rl_lib.tabular import grid_world
from offline_rl_lib.widgets.live_figure import LiveFigure, source


class TabularBoundFigure(LiveFigure):
    """Sliders for CQL's evaluation of a policy on :func:`offline_rl_lib.tabular.grid_world`.

    Args:
        weight: the paper's penalty weight, from 0 to 2.
        push_up: 0 pushes only down (equation 1 of the paper), 1 also pushes the data up
            (equation 2).
        lean: the policy is the behaviour times ``exp(lean * Q)`` of the behaviour, from 0 to 5; 1
            is the grid world's own policy.
        discount: per step, from 0 to 0.95.

    Raises:
        traitlets.TraitError: a value is outside its range.
    """

    _esm = source("tabular_bound")
    sliders = ("weight", "push_up", "lean", "discount")

    weight = traitlets.Float(1.0, min=0.0, max=2.0).tag(sync=True)
    push_up = traitlets.Enum((0, 1), 1).tag(sync=True)
    lean = traitlets.Float(1.0, min=0.0, max=5.0).tag(sync=True)
    discount = traitlets.Float(0.8, min=0.0, max=0.95).tag(sync=True)
    reward: traitlets.List[Any] = traitlets.List(read_only=True).tag(sync=True)
    transition: traitlets.List[Any] = traitlets.List(read_only=True).tag(sync=True)
    behaviour: traitlets.List[Any] = traitlets.List(read_only=True).tag(sync=True)

    def __init__(
        self,
        weight: float = 1.0,
        push_up: int = 1,
        lean: float = 1.0,
        discount: float = 0.8,
        **traits: Any,
    ) -> None:
        super().__init__(weight=weight, push_up=push_up, lean=lean, discount=discount, **traits)

    @traitlets.default("reward")
    def _reward(self) -> list[list[float]]:
        return grid_world().mdp.reward.tolist()

    @traitlets.default("transition")
    def _transition(self) -> list[list[list[float]]]:
        return grid_world().mdp.transition.round(12).tolist()

    @traitlets.default("behaviour")
    def _behaviour(self) -> list[list[float]]:
        return grid_world().behaviour.tolist()
