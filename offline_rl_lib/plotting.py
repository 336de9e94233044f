"""One figure style for the whole book: colour-blind-safe, readable on light and dark pages."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from cycler import cycler
from matplotlib.axes import Axes

# Okabe and Ito (2008): distinguishable with every common colour-vision deficiency. Yellow is left
# out, it is too light for lines on white.
COLOURS = {
    "blue": "#0072B2",
    "orange": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "amber": "#E69F00",
    "black": "#000000",
}
LINE_STYLES = ["-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 3))]


def use_book_style() -> None:
    """Set matplotlib's defaults for the book's figures.

    Each line of a plot differs from its neighbours in colour *and* in dash pattern. Pictures have
    an opaque white ground, so they read the same on a light and on a dark page.
    """
    plt.rcParams.update(
        {
            "figure.figsize": (6.4, 3.6),
            "figure.dpi": 110,
            "savefig.facecolor": "white",
            "figure.facecolor": "white",
            "figure.constrained_layout.use": True,
            "axes.prop_cycle": cycler(color=list(COLOURS.values())) + cycler(linestyle=LINE_STYLES),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "#DDDDDD",
            "grid.linewidth": 0.6,
            "lines.linewidth": 1.8,
            "font.size": 10,
            "legend.frameon": False,
        }
    )


def reference_line(axes: Axes, value: float, label: str, **line: Any) -> None:
    """Draw a labelled horizontal line, such as a baseline's mean return."""
    style: dict[str, Any] = {"color": "#555555", "linestyle": ":", "linewidth": 1.4}
    axes.axhline(value, label=label, **(style | line))
