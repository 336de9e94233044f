"""What the notebooks use to teach: showing the library's source and checking exercises."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
import textwrap
from collections.abc import Callable
from typing import Any

from IPython.display import Markdown, display

from offline_rl_lib import exercise_checks

Checker = Callable[[Any], str]
_checkers: dict[str, Checker] = {}


class WrongAnswer(Exception):
    """Raised by a checker; its message tells the reader what is wrong and what to look at."""


class NotDoneYet(Exception):
    """Raised by :func:`call` when the reader's function still returns the stub's dots."""


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


def check(exercise_id: str, answer: Any) -> None:
    """Check an exercise and print the verdict; never raise for an unfinished or wrong answer.

    A stub returns ``...`` or ``None``. Its verdict is a gentle "not done yet".

    Raises:
        KeyError: there is no such exercise; the message lists those that exist.
    """
    for module in pkgutil.iter_modules(exercise_checks.__path__):
        importlib.import_module(f"{exercise_checks.__name__}.{module.name}")
    if exercise_id not in _checkers:
        raise KeyError(
            f"There is no exercise {exercise_id!r}; the exercises are {sorted(_checkers)}."
        )
    if answer is ... or answer is None:
        print(f"{exercise_id}: not done yet. Replace the dots and run the cell again.")
        return
    try:
        verdict = _checkers[exercise_id](answer)
    except WrongAnswer as reason:
        print(f"{exercise_id}: not right yet. {reason}")
    except NotDoneYet:
        print(f"{exercise_id}: not done yet. Replace the dots and run the cell again.")
    except Exception as error:
        print(f"{exercise_id}: your code stopped with {type(error).__name__}: {error}")
    else:
        print(f"{exercise_id}: passed. {verdict}")


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call the reader's function from a checker.

    Raises:
        NotDoneYet: it returned ``...`` or ``None``, as a stub does.
        WrongAnswer: the answer is no function.
    """
    if not callable(function):
        raise WrongAnswer(f"A function is expected; got {type(function).__name__}.")
    result = function(*arguments)
    if result is ... or result is None:
        raise NotDoneYet
    return result


def finite_number(value: Any, where: str) -> float:
    """Return the reader's number.

    Args:
        value: what the reader's function returned.
        where: begins the message, such as ``"For n = 3"``.

    Raises:
        WrongAnswer: it is no number, or not a finite one.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise WrongAnswer(f"{where} a number is expected; got {type(value).__name__}.") from None
    if not math.isfinite(number):
        raise WrongAnswer(f"{where} your function returned {number}.")
    return number
