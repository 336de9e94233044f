"""Figures that a reader can move: in JupyterLab, and in the built book without a kernel."""

from offline_rl_lib.widgets.tanh_normal import TanhNormalFigure

__all__ = ["TanhNormalFigure"]
