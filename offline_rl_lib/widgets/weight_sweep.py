"""Score, promise and truth under the weight of the penalty, over the stored runs of the map."""

from __future__ import annotations

import json
from typing import Any

import traitlets

from offline_rl_lib.map import WEIGHTS
from offline_rl_lib.widgets.live_figure import LiveFigure, source


class WeightSweepFigure(LiveFigure):
    """A choice of datasets, and a slider for the weight.

    Args:
        sweep: what :func:`offline_rl_lib.map.weight_sweep` returned.
        dataset: short name of the dataset shown, such as ``"narrow"``.
        weight: of the penalty: 0, 0.25, 1, 5 or 20.

    Raises:
        traitlets.TraitError: no such weight, or a dataset that is not in the sweep.
    """

    _esm = source("weight_sweep")
    sliders = ("weight",)

    dataset = traitlets.Unicode("narrow").tag(sync=True)
    weight = traitlets.Enum((0.0, *WEIGHTS), 0.0).tag(sync=True)
    sweep = traitlets.Unicode().tag(sync=True)  # JSON: one line in the stored notebook

    def __init__(
        self, sweep: dict[str, Any], dataset: str = "narrow", weight: float = 0.0, **traits: Any
    ) -> None:
        text = json.dumps(sweep, separators=(",", ":"))
        super().__init__(sweep=text, dataset=dataset, weight=weight, **traits)

    @traitlets.validate("dataset")
    def _known(self, proposal: dict[str, Any]) -> str:
        name = str(proposal["value"])
        known = json.loads(self.sweep)["datasets"]
        if name not in known:
            raise traitlets.TraitError(f"The dataset {name!r} is not among {', '.join(known)}.")
        return name

    def __repr__(self) -> str:
        """Show the dataset beside the slider."""
        return super().__repr__().replace("(", f"(dataset={self.dataset!r}, ", 1)
