"""Figures that a reader can move: in JupyterLab, and in the built book without a kernel."""

from offline_rl_lib.widgets.proposals import ProposalsFigure
from offline_rl_lib.widgets.q_landscape import QLandscapeFigure
from offline_rl_lib.widgets.swing import SwingFigure
from offline_rl_lib.widgets.tabular_bound import TabularBoundFigure
from offline_rl_lib.widgets.tanh_normal import TanhNormalFigure
from offline_rl_lib.widgets.target_filter import TargetFilterFigure
from offline_rl_lib.widgets.weight_sweep import WeightSweepFigure

__all__ = [
    "ProposalsFigure",
    "QLandscapeFigure",
    "SwingFigure",
    "TabularBoundFigure",
    "TanhNormalFigure",
    "TargetFilterFigure",
    "WeightSweepFigure",
]
