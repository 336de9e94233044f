"""The Python side of the live figures; their drawing is tested in a browser, with the site."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from traitlets import TraitError

from offline_rl_lib.tabular import grid_world
from offline_rl_lib.widgets import (
    ProposalsFigure,
    QLandscapeFigure,
    TabularBoundFigure,
    TanhNormalFigure,
    TargetFilterFigure,
    WeightSweepFigure,
)
from offline_rl_lib.widgets.live_figure import LiveFigure


def test_the_figure_carries_its_source_and_no_address() -> None:
    figure = TanhNormalFigure(mean=0.25, std=1.0, low=-1.0, high=3.0, probe=0.0)
    state = figure.get_state()
    assert "function liveFigure(" in state["_esm"]
    assert "export default liveFigure(" in state["_esm"]
    assert (state["mean"], state["std"], state["low"], state["high"]) == (0.25, 1.0, -1.0, 3.0)
    assert repr(figure) == "TanhNormalFigure(mean=0.25, std=1, low=-1, high=3, probe=0)"


def test_the_distribution_follows_the_sliders() -> None:
    figure = TanhNormalFigure(mean=0.0, std=1.0, low=-1.0, high=1.0)
    figure.set_state({"mean": 0.5, "low": 1.0, "high": 2.0})  # as the browser sends it
    distribution = figure.distribution
    assert distribution.mean.dtype == torch.float64
    torch.testing.assert_close(
        distribution.mode, 1.5 + 0.5 * torch.tanh(torch.tensor([0.5], dtype=torch.float64))
    )


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ({"std": 0.0}, "std"),
        ({"mean": 2.5}, "mean"),
        ({"low": -5.0}, "low"),
        ({"low": 1.0, "high": -1.0}, "high must be at least 0.2 above low"),
        ({"low": 1.0, "high": 1.1}, "high must be at least 0.2 above low"),
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, float], complaint: str) -> None:
    with pytest.raises(TraitError, match=complaint):
        TanhNormalFigure(**setting)


def test_a_refused_bound_leaves_the_figure_as_it_was() -> None:
    figure = TanhNormalFigure(low=-1.0, high=1.0)
    with pytest.raises(TraitError, match="got low=1, high=1"):
        figure.low = 1.0
    assert figure.low == -1.0


@pytest.mark.parametrize(
    ("figure", "setting", "complaint"),
    [
        (ProposalsFigure, {"count": 4}, "count"),
        (ProposalsFigure, {"weight": -1.0}, "weight"),
        (TargetFilterFigure, {"rate": 0.3}, "rate"),
        (TabularBoundFigure, {"push_up": 2}, "push_up"),
        (TabularBoundFigure, {"discount": 1.0}, "discount"),
        (QLandscapeFigure, {"landscapes": {}, "angle": 25}, "angle"),
        (WeightSweepFigure, {"sweep": {"datasets": {"narrow": {}}}, "weight": 2.0}, "weight"),
        (WeightSweepFigure, {"sweep": {"datasets": {"wide": {}}}}, "'narrow' is not among wide"),
    ],
)
def test_every_figure_refuses_what_its_sliders_cannot_reach(
    figure: type[LiveFigure], setting: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(TraitError, match=complaint):
        figure(**setting)


def test_the_grid_world_travels_with_its_figure() -> None:
    state, world = TabularBoundFigure().get_state(), grid_world()
    np.testing.assert_allclose(state["transition"], world.mdp.transition)
    np.testing.assert_array_equal(state["reward"], world.mdp.reward)
    np.testing.assert_array_equal(state["behaviour"], world.behaviour)
    assert repr(TabularBoundFigure(push_up=0)) == (
        "TabularBoundFigure(weight=1, push_up=0, lean=1, discount=0.8)"
    )


def test_the_sweep_travels_with_its_figure_and_keeps_to_its_datasets() -> None:
    sweep = {"weights": [0.0], "datasets": {"narrow": {"score": [[1.0, 0.5, 2.0]]}, "rare": {}}}
    figure = WeightSweepFigure(sweep, dataset="rare", weight=5.0)
    assert json.loads(figure.get_state()["sweep"]) == sweep
    assert repr(figure) == "WeightSweepFigure(dataset='rare', weight=5)"
    with pytest.raises(TraitError, match="'wide' is not among narrow, rare"):
        figure.dataset = "wide"
    assert figure.dataset == "rare"
