"""Which test proves which label: read from the tests' source, without running them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, order=True)
class Claim:
    """One `@pytest.mark.proves(label, method=...)` on one test."""

    label: str
    test: str
    """`file.py::test_name`, or `file.py::TestClass::test_name`."""
    method: str


class UnreadableClaimError(ValueError):
    """A `proves` mark whose label or method is not a plain string."""


def scan_tests(folder: Path) -> list[Claim]:
    """Read the claims of every `test_*.py` in `folder`.

    Args:
        folder: The folder that holds the tests. Folders below it are not read.

    Returns:
        The claims, sorted by label and test.

    Raises:
        UnreadableClaimError: A mark has no literal label and method.
    """
    claims: set[Claim] = set()
    for path in sorted(folder.glob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=path.name)
        claims.update(_claims_in(tree.body, path.name, prefix=path.name, inherited=[]))
    return sorted(claims)


def _claims_in(
    body: list[ast.stmt], file: str, prefix: str, inherited: list[tuple[str, str]]
) -> Iterator[Claim]:
    for statement in body:
        if isinstance(statement, ast.ClassDef):
            marks = [*inherited, *_marks(statement, file)]
            yield from _claims_in(statement.body, file, f"{prefix}::{statement.name}", marks)
        elif isinstance(
            statement, ast.FunctionDef | ast.AsyncFunctionDef
        ) and statement.name.startswith("test"):
            for label, method in [*inherited, *_marks(statement, file)]:
                yield Claim(label, f"{prefix}::{statement.name}", method)


def _marks(
    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, file: str
) -> Iterator[tuple[str, str]]:
    # Walking the whole decorator also finds marks inside pytest.param(..., marks=...).
    for decorator in node.decorator_list:
        for call in ast.walk(decorator):
            if (
                isinstance(call, ast.Call)
                and isinstance(call.func, ast.Attribute)
                and call.func.attr == "proves"
            ):
                yield _label_and_method(call, file)


def _label_and_method(call: ast.Call, file: str) -> tuple[str, str]:
    label = call.args[0] if call.args else None
    method = next((word.value for word in call.keywords if word.arg == "method"), None)
    match (label, method):
        case (ast.Constant(value=str(label_text)), ast.Constant(value=str(method_text))):
            return label_text, method_text
    raise UnreadableClaimError(
        f'{file}:{call.lineno}: write proves("label", method="...") with plain strings, '
        "because the site reads them without running the test"
    )
