"""The book's pages in reading order, links between them, and tables built from data."""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment


def reading_order(env: BuildEnvironment) -> list[str]:
    """Return the names of all pages, depth first from the landing page."""
    order: list[str] = []

    def visit(docname: str) -> None:
        if docname not in order:
            order.append(docname)
            for child in env.toctree_includes.get(docname, []):
                visit(child)

    visit(env.config.root_doc)
    return order


def chapters(env: BuildEnvironment) -> list[str]:
    """Return the names of the chapter notebooks in reading order."""
    return [name for name in reading_order(env) if name.startswith("notebooks/")]


def page_title(env: BuildEnvironment, docname: str) -> str:
    """Return a page's title with its chapter number, if it has one."""
    number = env.toc_secnumbers.get(docname, {}).get("", ())
    return f"{'.'.join(map(str, number or ()))} {env.titles[docname].astext()}".strip()


def page_link(
    app: Sphinx, origin: str, target: str, text: str, anchor: str = ""
) -> nodes.reference:
    """Return a link from page `origin` to page `target`."""
    uri = app.builder.get_relative_uri(origin, target) + (f"#{anchor}" if anchor else "")
    return nodes.reference("", text, internal=True, refuri=uri)


def data_table(title: str, headings: tuple[str, ...], rows: list[list[nodes.Node]]) -> nodes.table:
    """Return a captioned table with a header row; each cell is one inline node."""
    group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in headings), cols=len(headings))
    group += nodes.thead("", _row([nodes.Text(heading) for heading in headings]))
    group += nodes.tbody("", *map(_row, rows))
    # Sphinx wants an anchor on every captioned table.
    anchor = nodes.make_id(title)
    return nodes.table("", nodes.title("", title), group, ids=[anchor], classes=["data-table"])


def _row(cells: list[nodes.Node]) -> nodes.row:
    return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", cell)) for cell in cells))
