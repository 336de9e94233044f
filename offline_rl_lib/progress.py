"""Progress bars that a reader sees and a stored notebook does not."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")


def progress(iterable: Iterable[T], total: int | None = None, description: str = "") -> Iterator[T]:
    """Iterate with a progress bar; without one if ``OFFLINE_RL_PROGRESS=0`` is set.

    Stored outputs must repeat exactly, and a progress bar holds times. The commands that execute
    and compare notebooks therefore set the variable.
    """
    silent = os.environ.get("OFFLINE_RL_PROGRESS") == "0"
    return iter(tqdm(iterable, total=total, desc=description, disable=silent, leave=False))
