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
        UnreadableClaimError: A mark's label or method is no plain string.
    """
    return sorted(
        {claim for path in sorted(folder.glob("test_*.py")) for claim in _TestFile(path).claims()}
    )


class _TestFile:
    """One file of tests: its syntax tree, and the strings that its top level names."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self.tree = ast.parse(path.read_text(encoding="utf-8"), filename=path.name)
        self.constants = {
            target.id: statement.value.value
            for statement in self.tree.body
            if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant)
            for target in statement.targets
            if isinstance(target, ast.Name)
        }

    def claims(self) -> Iterator[Claim]:
        """Yield the claims of all tests in the file."""
        return self._claims_in(self.tree.body, prefix=self.name, inherited=[])

    def _claims_in(
        self, body: list[ast.stmt], prefix: str, inherited: list[tuple[str, str]]
    ) -> Iterator[Claim]:
        for statement in body:
            if isinstance(statement, ast.ClassDef):
                marks = [*inherited, *self._marks(statement)]
                yield from self._claims_in(statement.body, f"{prefix}::{statement.name}", marks)
            elif isinstance(
                statement, ast.FunctionDef | ast.AsyncFunctionDef
            ) and statement.name.startswith("test"):
                for label, method in [*inherited, *self._marks(statement)]:
                    yield Claim(label, f"{prefix}::{statement.name}", method)

    def _marks(
        self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    ) -> Iterator[tuple[str, str]]:
        # Walking the whole decorator also finds marks inside pytest.param(..., marks=...).
        for decorator in node.decorator_list:
            for call in ast.walk(decorator):
                if (
                    isinstance(call, ast.Call)
                    and isinstance(call.func, ast.Attribute)
                    and call.func.attr == "proves"
                ):
                    yield self._label_and_method(call)

    def _label_and_method(self, call: ast.Call) -> tuple[str, str]:
        label = self._text(call.args[0] if call.args else None)
        words = {word.arg: word.value for word in call.keywords}
        method = self._text(words.get("method"))
        if label is None or method is None:
            raise UnreadableClaimError(
                f'{self.name}:{call.lineno}: write proves("label", method="...") with plain '
                "strings, because the site reads them without running the test"
            )
        return label, method

    def _text(self, node: ast.expr | None) -> str | None:
        """Return a literal string; names of the top level may stand for it or be part of it."""
        match node:
            case ast.Constant(value=str(text)):
                return text
            case ast.Name(id=name) if isinstance(value := self.constants.get(name), str):
                return value
            case ast.FormattedValue(value=ast.Name() as name):
                return self._text(name)
            case ast.JoinedStr(values=parts):
                texts = [self._text(part) for part in parts]
                return None if None in texts else "".join(filter(None, texts))
        return None
