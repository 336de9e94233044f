"""What the notebooks use to teach: showing the library's source and checking exercises."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import math
import pkgutil
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import torch
from IPython.display import Markdown, display

from offline_rl_lib import exercise_checks

Checker = Callable[[Any], str]
_checkers: dict[str, Checker] = {}


class WrongAnswer(Exception):
    """Raised by a checker; its message tells the reader what is wrong and what to look at.

    Args:
        message: what the reader reads.
        share: the share of the points that the answer has earned all the same, from 0 to 1.
    """

    def __init__(self, message: str, share: float = 0.0) -> None:
        super().__init__(message)
        self.share = share


class NotDoneYet(Exception):
    """Raised when an answer still holds the stub's dots; its message says how to go on."""

    def __init__(self, message: str = "Replace the dots and run the cell again.") -> None:
        super().__init__(message)


def show_source(thing: Callable[..., Any] | type, *, docstring: bool = False) -> None:
    """Display the library's own source of a function, method or class.

    The text is read from the imported module, so the page cannot drift from the code that runs.

    Args:
        thing: what to show.
        docstring: keep the docstring. It is cut by default, since the prose explains.
    """
    source = textwrap.dedent(inspect.getsource(thing))
    if not docstring and thing.__doc__:
        for quote in ('"""', 'r"""'):
            start = source.find(quote)
            if start >= 0:
                end = source.index('"""', start + len(quote)) + 3
                # The docstring's own line goes with it, indentation and line break included.
                line_start = source.rfind("\n", 0, start) + 1
                source = source[:line_start] + source[end:].lstrip("\n")
                break
    display(Markdown(f"```python\n{source.rstrip()}\n```"))


def checker(exercise_id: str) -> Callable[[Checker], Checker]:
    """Register a function that checks the answer of one exercise.

    The function receives the reader's answer, raises :class:`WrongAnswer` with a helpful message,
    and otherwise returns one sentence that says what the answer was found to do.
    """

    def register(function: Checker) -> Checker:
        _checkers[exercise_id] = function
        return function

    return register


def check(exercise_id: str, answer: Any, points: float | None = None) -> float | None:
    """Check an exercise and print the verdict; never raise for an unfinished or wrong answer.

    A stub returns ``...`` or ``None``. Its verdict is a gentle "not done yet".

    Args:
        exercise_id: the exercise's label.
        answer: the reader's function or value.
        points: what a right answer is worth, if it is graded.

    Returns:
        The points that the answer has earned, to two decimals; nothing if it is not graded.

    Raises:
        KeyError: there is no such exercise; the message lists those that exist.
    """
    for module in pkgutil.iter_modules(exercise_checks.__path__):
        importlib.import_module(f"{exercise_checks.__name__}.{module.name}")
    if exercise_id not in _checkers:
        raise KeyError(
            f"There is no exercise {exercise_id!r}; the exercises are {sorted(_checkers)}."
        )
    if points is None:
        print(f"{exercise_id}: {_judge(exercise_id, answer)[0]}")
        return None
    # A grader that reads the cell's outputs takes any text on stderr, such as a warning of the
    # reader's code, for a failure.
    with contextlib.redirect_stderr(sys.stdout):
        verdict, share = _judge(exercise_id, answer)
    earned = round(points * share, 2)
    print(f"{exercise_id}: {verdict} ({earned:g} of {points:g} points)")
    return earned


def _judge(exercise_id: str, answer: Any) -> tuple[str, float]:
    """Return the verdict on an answer and the share of the points that it has earned."""
    try:
        if answer is ... or answer is None:
            raise NotDoneYet
        return f"passed. {_checkers[exercise_id](answer)}", 1.0
    except WrongAnswer as reason:
        return f"not right yet. {reason}", reason.share
    except NotDoneYet as reason:
        return f"not done yet. {reason}", 0.0
    except Exception as error:
        where = _where_it_stopped(answer, error)
        return f"your code stopped {where}with {type(error).__name__}: {error}", 0.0


def _where_it_stopped(answer: Any, error: Exception) -> str:
    """Return the last line of the reader's own function that was reached, ready for a sentence."""
    own = getattr(getattr(answer, "__code__", None), "co_filename", None)
    reached = [step for step in traceback.extract_tb(error.__traceback__) if step.filename == own]
    if not reached:
        return ""
    shown = f", `{reached[-1].line}`," if reached[-1].line else ""
    return f"in line {reached[-1].lineno}{shown} "


def require_all(problems: Sequence[str | None]) -> None:
    """Accept an answer of several parts, or complain of the first part that is wrong.

    Args:
        problems: for each part what is wrong with it, ``None`` if it is right.

    Raises:
        WrongAnswer: a part is wrong; the parts that are right earn their share.
    """
    wrong = [problem for problem in problems if problem is not None]
    if wrong:
        raise WrongAnswer(wrong[0], share=1 - len(wrong) / len(problems))


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call the reader's function from a checker.

    Raises:
        NotDoneYet: it returned ``...``, as a stub does, once or for each of several parts; or it
            returned nothing.
        WrongAnswer: the answer is no function.
    """
    if not callable(function):
        raise WrongAnswer(f"A function is expected; got {type(function).__name__}.")
    result = function(*arguments)
    if result is None:
        raise NotDoneYet("Your function returns None: is a `return` missing?")
    parts = result if isinstance(result, tuple | list) and result else [result]
    if all(part is ... for part in parts):
        raise NotDoneYet
    return result


def call_without_autograd(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call the reader's function where an exercise asks for the formula of a gradient.

    Raises:
        NotDoneYet: as in :func:`call`.
        WrongAnswer: the answer is no function, or it asks PyTorch for the gradient.
    """
    try:
        with torch.no_grad():
            return call(function, *arguments)
    except RuntimeError as error:
        if "does not require grad" not in str(error):
            raise
        raise WrongAnswer("Here autograd is switched off: write the formula itself.") from error


def finite_number(value: Any, where: str) -> float:
    """Return the reader's number.

    Args:
        value: what the reader's function returned.
        where: begins the message, such as ``"For n = 3"``.

    Raises:
        NotDoneYet: it is still the stub's dots.
        WrongAnswer: it is no number, or not a finite one.
    """
    if value is ...:
        raise NotDoneYet
    try:
        number = float(value)
    except (TypeError, ValueError):
        shape = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
        raise WrongAnswer(
            f"{where} a number is expected; got {type(value).__name__}{shape}."
        ) from None
    if not math.isfinite(number):
        raise WrongAnswer(f"{where} your function returned {number}.")
    return number
