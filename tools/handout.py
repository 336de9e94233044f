"""Print the book, or chapters of it, as one PDF for students: python tools/handout.py 10 11.

The pages of the built site are merged into one, in the order of the contents, and a real Chromium
prints it: so formulas and figures are those of the site. What works on a screen only is taken out
or replaced, and so is every answer. `run.py handout` builds the site and calls this.
"""

from __future__ import annotations

import copy
import html
import os
import posixpath
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from bs4 import BeautifulSoup, Tag
from bs4.element import NavigableString
from playwright.sync_api import sync_playwright
from pypdf import PdfReader

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # Started as a script, Python looks in tools only.

from tools.browsers import FLAGS, HOW_TO_GET_ONE, find_browser  # noqa: E402

STYLE = Path(__file__).with_name("handout.css")
NAME = "cql-step-by-step.pdf"
FOR_TEACHERS = "book/teaching/"
"""Pages with plans and answer keys, which a handout for students leaves out."""

LEFT_OUT = (
    ".headerlink, .student-notebook, .toctree-wrapper, .solution, .quiz-actions, .quiz-feedback, "
    ".quiz-explanations, .quiz input, .dropdown:has(> p:-soup-contains-own('Answers')), "
    ".tag_exercise .cell_output, ul:has(> li > p > a[href*='../student/']), details.hide, script, "
    "style"
)
"""What answers, what only a screen can use, and the code behind figures that is folded there."""

QUIZ_ON_PAPER = {
    "form": "quiz-question",
    "fieldset": "quiz-body",
    "legend": "quiz-number",
    "label": "quiz-option",
}

IMPRINT = """
<p>The pages of the book with their exercises and quizzes, on paper.</p>
<p>Left out: the solutions of the exercises and the answers of the quizzes, which the pages of the
book unfold and explain; the code that only draws a figure; the pages for teachers.
Hints stand together at the end. A figure that moves on its page is shown as a still picture.</p>
"""


@dataclass(frozen=True)
class Part:
    """A part of the book: its caption and the names of its pages, without ending."""

    caption: str
    pages: tuple[str, ...]


def read_parts(contents: Path) -> list[Part]:
    """Return the parts of `_toc.yml` without the pages for teachers, the first page first."""
    toc = yaml.safe_load(contents.read_text(encoding="utf-8"))
    parts = [Part("", (toc["root"],))]
    for part in toc["parts"]:
        names = [os.path.splitext(chapter["file"])[0] for chapter in part["chapters"]]  # noqa: PTH122
        pages = tuple(name for name in names if not name.startswith(FOR_TEACHERS))
        if pages:
            parts.append(Part(part["caption"], pages))
    return parts


def slug(page: str) -> str:
    """Return a page's name as it begins the anchors of its parts."""
    return page.replace("/", "-")


@dataclass
class Merged:
    """The pages as one document; every anchor carries its page's name, so that none collides."""

    site: Path
    parts: Sequence[Part]
    articles: dict[str, Tag] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    anchors: set[str] = field(default_factory=set)
    hints: dict[str, list[Tag]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for page in (page for part in self.parts for page in part.pages):
            self._read(page)
        for page, article in self.articles.items():
            self._turn_links(page, article)

    def _read(self, page: str) -> None:
        text = (self.site / f"{page}.html").read_text(encoding="utf-8")
        slim = PLAIN_CODE.sub(r"\1", text)
        article = BeautifulSoup(slim, "html.parser").select_one("article.bd-article")
        if article is None or article.h1 is None:
            raise ValueError(f"{page}.html is no page of the book: build the site again")
        for element in article.select(LEFT_OUT):
            element.decompose()
        for cell in article.select(".cell"):
            if not cell.get_text(strip=True) and not cell.find("img"):
                cell.decompose()
        for element in article.select(".quiz :is(form, fieldset, legend, label)"):
            element["class"] = QUIZ_ON_PAPER[element.name]
            element.name = "div"
        for formula in article.select("span.math"):
            keep_with_its_mark(formula)
        for name in article.select("td code:-soup-contains('::')"):
            name.replace_with(parsed(re.sub("(::|_)", r"\1<wbr>", str(name))))  # Else too wide.
        for figure in article.select("figure"):
            figure["role"] = "group"  # The picture in it is the figure of the PDF: it has the text.
        for image in article.select("img"):
            image["src"] = (self.site / page).parent.joinpath(str(image["src"])).resolve().as_uri()
        self._mark_anchors(page, article)
        self.articles[page] = article
        self.titles[page] = article.h1.get_text()
        self.hints[page] = list(self._take_hints(page, article))

    def _mark_anchors(self, page: str, article: Tag) -> None:
        for element in article.select("[id]"):
            anchor = f"{slug(page)}--{element['id']}"
            if anchor in self.anchors:  # Exercises share the name of their inner section.
                del element["id"]
            else:
                element["id"] = anchor
                self.anchors.add(anchor)
        for element in article.select("[aria-labelledby]"):
            names = str(element["aria-labelledby"]).split()
            element["aria-labelledby"] = " ".join(f"{slug(page)}--{name}" for name in names)

    def _take_hints(self, page: str, article: Tag) -> Iterator[Tag]:
        """Move the hints out, and leave a link to the place where they will stand."""
        for number, hint in enumerate(article.select(".admonition.hint"), start=1):
            anchor = f"{slug(page)}--hint-{number}"
            exercise = hint.find_previous(class_="exercise")
            if not isinstance(exercise, Tag):
                raise ValueError(f"{page}: a hint without an exercise before it")
            hint.replace_with(parsed(f'<p class="hint-link">Hint: {page_reference(anchor)}</p>'))
            title = hint.select_one(".admonition-title")
            name = exercise.select_one(".admonition-title")
            if title is None or name is None:
                raise ValueError(f"{page}: a hint or its exercise has no title")
            title.clear()
            back = parsed(f'<a href="#{exercise["id"]}"></a>')
            back.extend(copy.copy(child) for child in list(name.children))
            title.append(back)
            hint["id"] = anchor
            self.anchors.add(anchor)
            yield hint.extract()

    def _turn_links(self, page: str, article: Tag) -> None:
        """Point links between pages into the document; drop those to files it does not hold."""
        for where in [article, *self.hints[page]]:
            for link in where.select("a[href]"):
                target = self.target(page, str(link["href"]))
                if target is None:
                    link.unwrap()
                else:
                    link["href"] = target

    def target(self, page: str, href: str) -> str | None:
        """Return where a link of a page leads in the document; None if nowhere.

        Raises:
            ValueError: The link names an anchor that its page, one of the document, lacks.
        """
        parts = urlsplit(href)
        if parts.scheme or href.removeprefix("#") in self.anchors:
            return href
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page), parts.path))
        name = path.removesuffix(".html") if parts.path else page
        if name not in self.titles:
            return None
        if not parts.fragment:
            return f"#{slug(name)}"
        anchor = f"{slug(name)}--{parts.fragment}"
        if anchor not in self.anchors:
            raise ValueError(f"{page}: {href} leads nowhere in the handout")
        return f"#{anchor}"

    def html(self, title: str, author: str) -> str:
        """Return the whole document."""
        first = (self.site / f"{self.parts[0].pages[0]}.html").read_text(encoding="utf-8")
        page = BeautifulSoup(first, "html.parser")
        base = (self.site / self.parts[0].pages[0]).parent
        sheets = [
            (base / str(sheet["href"]).partition("?")[0]).resolve().as_uri()
            for sheet in page.select("link[rel=stylesheet]")
        ]
        mathjax = (self.site / "_static" / "mathjax" / "tex-mml-chtml.js").resolve().as_uri()
        title = html.escape(title)
        return "\n".join(
            [
                '<!DOCTYPE html><html lang="en" data-theme="light" data-mode="light"><head>',
                f'<meta charset="utf-8"><title>{title}</title>',
                *(f'<link rel="stylesheet" href="{sheet}">' for sheet in sheets),
                f"<style>{STYLE.read_text(encoding='utf-8')}\n{self._running_heads()}</style>",
                f"<script>{MATHJAX_SETTINGS}</script>",
                f'<script defer src="{mathjax}"></script></head><body>',
                f'<section class="title-page"><p class="book-title">{title}</p>',
                f'<p class="handout-kind">Handout</p>{IMPRINT}',
                f"<p>{html.escape(author)}. Text and figures: CC BY 4.0. Code: MIT.</p></section>",
                *self._contents(),
                *(
                    f'<div class="page-of-book" id="{slug(name)}" style="page: {head(name)}">'
                    f"{article}</div>"
                    for name, article in self.articles.items()
                ),
                *self._hint_pages(),
                "</body></html>",
            ]
        )

    def _running_heads(self) -> str:
        return "\n".join(
            f"@page {head(name)} {{ @top-right {{ content: {css_string(text)} }} }}"
            for name, text in {**self.titles, HINTS: "Hints"}.items()
        )

    def _contents(self) -> Iterator[str]:
        yield '<nav class="handout-contents" aria-labelledby="contents">'
        yield '<h1 id="contents">Contents</h1>'
        for part in self.parts:
            if part.caption:
                yield f'<p class="part">{html.escape(part.caption)}</p>'
            yield "<ul>"
            for name in part.pages:
                yield contents_line(slug(name), self.titles[name])
            yield "</ul>"
        if any(self.hints.values()):
            yield f'<p class="part">Appendix</p><ul>{contents_line(HINTS, "Hints")}</ul>'
        yield "</nav>"

    def _hint_pages(self) -> Iterator[str]:
        if not any(self.hints.values()):
            return
        yield f'<div class="page-of-book" id="{HINTS}" style="page: {head(HINTS)}">'
        yield '<article class="bd-article"><section><h1>Hints</h1>'
        yield "<p>Try first. A hint names the next step, not the answer.</p>"
        for name, hints in self.hints.items():
            if hints:
                yield f"<section><h2>{html.escape(self.titles[name])}</h2>"
                yield from map(str, hints)
                yield "</section>"
        yield "</section></article></div>"


HINTS = "hints"

# Keywords, comments and texts keep their colours. The rest of a code line becomes one piece of
# text: a hundred thousand pieces would double the time of printing.
PLAIN_CODE = re.compile(r'<span(?: class="(?:pre|[bfmnopvw][a-z0-9]?|)")?>([^<]*)</span>')

# As on the pages, where formulas grow with the letters of the text around them: too tall here.
MATHJAX_SETTINGS = """window.MathJax = {
  options: {processHtmlClass: "tex2jax_process|mathjax_process|math|output_area"},
  chtml: {matchFontHeight: false, scale: 1.08}};"""


def parsed(markup: str) -> Tag:
    """Return the one element that the markup describes."""
    element = BeautifulSoup(markup, "html.parser").find(True)
    assert isinstance(element, Tag)
    return element


def keep_with_its_mark(formula: Tag) -> None:
    """Keep the full stop or comma after a formula from the beginning of the next line."""
    after = formula.next_sibling
    if not isinstance(after, NavigableString):
        return
    if mark := re.match("[.,;:?!)]+", after):
        whole = formula.wrap(parsed('<span class="with-mark"></span>'))
        whole.append(mark[0])
        after.replace_with(mark.string[mark.end() :])


def page_reference(anchor: str) -> str:
    """Return a link with a place for the number of its page."""
    return f'<a href="#{anchor}">page <span class="page-number"></span></a>'


def contents_line(anchor: str, title: str) -> str:
    """Return a line of the contents, with a place for the number of its page."""
    return (
        f'<li><a href="#{anchor}"><span>{html.escape(title)}</span>'
        '<span class="leader"></span><span class="page-number"></span></a></li>'
    )


def head(name: str) -> str:
    """Return the name of the CSS page that carries a page's running head."""
    return "head-" + slug(name).replace("_", "-")


def css_string(text: str) -> str:
    """Return a text as a string of CSS."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


# Display formulas and tables that are wider than the paper become smaller, not cut off.
FIT = """() => {
  const excess = box => box.scrollWidth / box.clientWidth;
  const wide = limit => [...document.querySelectorAll(
      "div.math, .pst-scrollable-table-container")]
    .map(box => [box, excess(box)]).filter(([, by]) => by > limit);
  // First all are measured, then all changed: each turn lays out the whole document anew.
  for (const [box] of wide(1.3)) box.classList.add("tight");  // Words break, so letters stay large.
  for (const [box, by] of wide(1.001)) box.style.fontSize = `${Math.floor(99 / by)}%`;
}"""

# What is wider even so: Chromium makes every page of the document smaller for its sake.
TOO_WIDE = """width => [...document.querySelectorAll("body *")]
  .filter(e => e.getBoundingClientRect().right > width + 1 && !e.closest("mjx-assistive-mml"))
  .map(e => e.closest("[id]").id)"""

# A hundredth of a pixel is enough for that, and then each page shows a line of the next one.
CLIP = ".page-of-book { overflow-x: clip; }"

FILL_IN = """pages => {
  for (const place of document.querySelectorAll(".page-number"))
    place.textContent = pages[decodeURIComponent(place.closest("a").hash.slice(1))];
}"""

PAPER_WIDTH = 658
"""Pixels between the margins of handout.css: 210 mm less 18 mm on each side, 96 to the inch."""


def print_document(document: Path, pdf: Path, program: str) -> None:
    """Print a document twice: the first print tells the page of each anchor.

    Raises:
        RuntimeError: A formula does not parse, a picture is missing, or a link leads nowhere.
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        try:
            context = browser.new_context(
                offline=True, viewport={"width": PAPER_WIDTH, "height": 1000}
            )
            context.set_default_timeout(0)  # A whole book takes minutes on a busy machine.
            page = context.new_page()
            say("laying out text and formulas")
            page.emulate_media(media="print", color_scheme="light")
            page.goto(document.as_uri())
            page.evaluate("() => window.MathJax.startup.promise")
            page.evaluate("() => document.fonts.ready.then(() => null)")
            bad = page.locator("mjx-merror, [data-mjx-error]").count()
            empty = page.evaluate(
                "() => [...document.images].filter(i => !i.naturalWidth).map(i => i.src)"
            )
            if bad or empty:
                raise RuntimeError(f"{bad} formulas do not parse; pictures missing: {empty}")
            page.evaluate(FIT)
            if wide := page.evaluate(TOO_WIDE, PAPER_WIDTH):
                say(f"too wide, so that all letters get smaller: {', '.join(sorted({*wide}))}")
            else:
                page.add_style_tag(content=CLIP)
            settings: dict[str, Any] = {
                "prefer_css_page_size": True,
                "print_background": True,
                "tagged": True,
                "outline": True,
            }
            # Numbers as wide as the final ones, so that no line breaks otherwise.
            anchors = page.locator("a:has(.page-number)").evaluate_all(
                "links => links.map(a => decodeURIComponent(a.hash.slice(1)))"
            )
            page.evaluate(FILL_IN, dict.fromkeys(anchors, "000"))
            say("printing once, to learn the numbers of the pages")
            page.pdf(path=pdf, **settings)
            pages = pages_of_anchors(PdfReader(pdf))
            lost = sorted(set(anchors) - set(pages))
            if lost:
                raise RuntimeError(f"the print has no page for {', '.join(lost)}")
            page.evaluate(FILL_IN, {anchor: str(pages[anchor]) for anchor in anchors})
            say("printing again, with the numbers")
            page.pdf(path=pdf, **settings)
        finally:
            browser.close()


def pages_of_anchors(reader: PdfReader) -> dict[str, int]:
    """Return the page, counted from 1, of each anchor that a link of the PDF leads to."""
    return {
        name.removeprefix("/"): (reader.get_destination_page_number(place) or 0) + 1
        for name, place in reader.named_destinations.items()
    }


def make_handout(site: Path, parts: Sequence[Part], folder: Path, program: str) -> Path:
    """Merge and print the pages of the site; return the PDF, `folder/NAME`."""
    settings = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    folder.mkdir(parents=True, exist_ok=True)
    document = folder / "handout.html"
    say(f"merging pages of the site: {sum(len(part.pages) for part in parts)}")
    merged = Merged(site, parts)
    document.write_text(merged.html(settings["title"], settings["author"]), encoding="utf-8")
    pdf = folder / NAME
    unfinished = folder / f".{NAME}.unfinished"
    print_document(document, unfinished, program)
    unfinished.replace(pdf)
    return pdf


def say(step: str) -> None:
    """Name a step at once, so that nobody thinks that the command hangs."""
    print(f"{time.strftime('%H:%M:%S')}  {step}", flush=True)


def chosen(parts: Sequence[Part], names: Sequence[str]) -> list[Part]:
    """Return the parts with the named pages only, in the order of the book; all without names.

    A name is that of a page, such as "11_target_networks" or "glossary", or a chapter's "11".

    Raises:
        ValueError: No page of the book has that name.
    """
    if not names:
        return list(parts)
    stems = {page: page.rsplit("/", 1)[-1] for part in parts for page in part.pages}
    named = {page: {stem, stem.split("_")[0]} & set(names) for page, stem in stems.items()}
    unknown = set(names).difference(*named.values())
    if unknown:
        known = ", ".join(stems.values())
        raise ValueError(f"No page {', '.join(sorted(unknown))}. There are: {known}.")
    kept = [Part(part.caption, tuple(p for p in part.pages if named[p])) for part in parts]
    return [part for part in kept if part.pages]


def main(names: Sequence[str], root: Path = ROOT) -> int:
    """Make the handout of the named pages, or of the whole book, and say where it is."""
    program = find_browser()
    if program is None:
        print(f"No Chromium found, and it prints the handout.\nFix: {HOW_TO_GET_ONE}")
        return 1
    try:
        parts = chosen(read_parts(root / "_toc.yml"), names)
    except ValueError as error:
        print(error)
        return 1
    if not names:
        print("The whole book takes a few minutes. A few chapters take seconds: name them.")
    started = time.perf_counter()
    built = root / "_build"
    pdf = make_handout(built / "html", parts, built / "handout", program)
    count, size = len(PdfReader(pdf).pages), pdf.stat().st_size / 1e6
    seconds = time.perf_counter() - started
    print(f"\nThe handout has {count} pages, {size:.1f} MB, made in {seconds:.0f} s:\n  {pdf}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
