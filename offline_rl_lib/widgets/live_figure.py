"""What the live figures share: a source for the browser, and a text that holds no address.

A live figure computes and draws in the browser, so it also works on a built page that has no
Python behind it. The site's tests compare its numbers with the library's.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from anywidget import AnyWidget

FOLDER = Path(__file__).parent


def source(figure: str) -> str:
    """JavaScript of one figure, after the code that all of them share."""
    files = (FOLDER / "live_figure.js", FOLDER / f"{figure}.js")
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


class LiveFigure(AnyWidget):
    """A figure with sliders.

    Attributes:
        sliders: names of the traits that the sliders move, in their order on the page.
    """

    sliders: ClassVar[tuple[str, ...]]

    def __repr__(self) -> str:
        """Show the settings only: a stored output must not hold an object's address."""
        settings = ", ".join(f"{name}={getattr(self, name):g}" for name in self.sliders)
        return f"{type(self).__name__}({settings})"
