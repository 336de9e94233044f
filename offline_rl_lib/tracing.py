"""Watch a function run, statement by statement: which names it bound, and to what."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from IPython.display import Markdown, display
from torch import Tensor

RETURNED = "return"


@dataclass(eq=False)
class Statement:
    """One statement of a function, or the head of a loop or a condition.

    Attributes:
        source: its text, indented as inside the function's body.
        names: the names that it binds.
        body: lines that a loop repeats, counted from the first line of the function.
        runs: for each time it ran, the names with copies of their values; a returned value goes
            under ``"return"``.
    """

    source: str
    names: tuple[str, ...] = ()
    body: range = range(0)
    runs: list[dict[str, Any]] = field(default_factory=list)


def trace(call: Callable[[], Any], *functions: Callable[..., Any]) -> dict[str, list[Statement]]:
    """Run ``call()`` once and record every statement of the given functions.

    Nothing is changed in the functions: Python's own trace hook reports each line. Tensors are
    copied, so that a later change in place does not alter the record.

    Args:
        call: what to run, without arguments.
        functions: Python functions or methods, decorated or not, that ``call`` may reach.

    Returns:
        For each function, under its qualified name such as ``"CQL.critic_loss"``, its statements
        in the order of the source.
    """
    plain = [inspect.unwrap(function) for function in functions]
    lines = {function.__code__: _statements(function) for function in plain}

    def on_call(frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        return _Watcher(frame, lines[frame.f_code]) if frame.f_code in lines else None

    previous = sys.gettrace()
    sys.settrace(on_call)
    try:
        call()
    finally:
        sys.settrace(previous)
    return {
        function.__qualname__: list(dict.fromkeys(lines[function.__code__].values()))
        for function in plain
    }


def show_trace(statements: Sequence[Statement]) -> None:
    """Display the statements of one function, and below each what it bound.

    A tensor is shown by its shape and its value, or by its mean and range if it has several.
    Lists, tuples and dictionaries are shown entry by entry. A statement that did not run says so.
    """
    text = []
    for statement in statements:
        text.append(statement.source)
        text += [] if statement.runs else ["#   not run"]
        rows = [
            row
            for run in statement.runs
            for name, value in run.items()
            for row in _entries(name, value)
        ]
        width = max((len(name) for name, _ in rows), default=0)
        text += [f"#   {name:{width}}  {describe(value)}" for name, value in rows]
    display(Markdown("```python\n" + "\n".join(text) + "\n```"))


def describe(value: Any) -> str:
    """Say in one line what a value is; floats have three decimals."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)!s:13} {_content(value)}"
    if isinstance(value, float):
        return _decimals(value)
    return str(value) if isinstance(value, (int, str)) else type(value).__name__


def _entries(name: str, value: Any) -> list[tuple[str, Any]]:
    """Return the value with its name, or each part of it with a name of its own."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        parts = [(f"{name}.{key}", part) for key, part in zip(value._fields, value, strict=True)]
    elif isinstance(value, (tuple, list)):
        parts = [(f"{name}[{place}]", part) for place, part in enumerate(value)]
    elif isinstance(value, dict):
        parts = [(f'{name}["{key}"]', part) for key, part in value.items()]
    else:
        return [(name, value)]
    return [entry for key, part in parts for entry in _entries(key, part)]


def _content(tensor: Tensor) -> str:
    values = tensor.detach().double().flatten()
    if len(values) <= 2:
        return " ".join(_decimals(value) for value in values.tolist())
    low, mean, high = (_decimals(float(v)) for v in (values.min(), values.mean(), values.max()))
    return f"mean {mean}, from {low} to {high}"


def _decimals(value: float) -> str:
    return f"{round(value, 3) + 0.0:.3f}"  # + 0.0: no minus sign before a zero


class _Watcher:
    """The trace hook of one running function."""

    def __init__(self, frame: FrameType, lines: dict[int, Statement]) -> None:
        self.first, self.lines = frame.f_code.co_firstlineno, lines
        self.current: Statement | None = None

    def __call__(self, frame: FrameType, event: str, argument: Any) -> _Watcher:
        line = frame.f_lineno - self.first
        if event == "exception":
            self.current = None  # what has failed binds nothing
        elif event == "return":
            self._finish({**frame.f_locals, RETURNED: argument}, line)
        elif event == "line" and self.lines.get(line) is not self.current:
            self._finish(frame.f_locals, line)
            self.current = self.lines.get(line)
        return self

    def _finish(self, values: dict[str, Any], next_line: int) -> None:
        """Record the statement that has just run; a loop that has ended binds nothing."""
        done, self.current = self.current, None
        if done is not None and (not done.body or next_line in done.body):
            done.runs.append({name: _copy(values[name]) for name in done.names if name in values})


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copy(content) for key, content in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_copy, value))
    return value


def _statements(function: Callable[..., Any]) -> dict[int, Statement]:
    """Return the statement of each line, lines counted from the function's first."""
    source = textwrap.dedent(inspect.getsource(function))
    text = source.splitlines()
    definition = ast.parse(source).body[0]
    found: dict[int, Statement] = {}
    for node in ast.walk(definition):
        if not isinstance(node, ast.stmt) or node is definition or _is_docstring(node):
            continue
        inner: list[ast.stmt] = getattr(node, "body", [])
        end = inner[0].lineno - 1 if inner else node.end_lineno or node.lineno
        body = range(0)
        if isinstance(node, (ast.For, ast.While)):
            body = range(inner[0].lineno - 1, inner[-1].end_lineno or 0)
        lines = textwrap.dedent("\n".join(text[node.lineno - 1 : end]))
        statement = Statement(
            textwrap.indent(lines, " " * (node.col_offset - 4)), _bound_names(node), body
        )
        found |= dict.fromkeys(range(node.lineno - 1, end), statement)
    return dict(sorted(found.items()))


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _bound_names(node: ast.stmt) -> tuple[str, ...]:
    if isinstance(node, ast.Return):
        return (RETURNED,)
    blocks = (ast.stmt, ast.ExceptHandler, ast.match_case)
    nested = {
        inside
        for child in ast.iter_child_nodes(node)
        if isinstance(child, blocks)
        for inside in ast.walk(child)
    }
    stored = [
        child.id
        for child in ast.walk(node)
        if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store) and child not in nested
    ]
    return tuple(dict.fromkeys(stored))
