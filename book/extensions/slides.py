"""Slides of the session plans: `slides/<plan>.html`, one deck for each plan with its own page.

A deck is made from the rows of `plans.yml`. What a row shows is cut out of the built chapters, so
a slide cannot disagree with its chapter; the speaker's notes are the row of the plan's page, with
what to say about it. The only words for slides alone are those under the field `slide` of a row:

    slide:
      open: [Title, "first line", "second line"]    a slide before what is shown: the question
      fig-offline-idea: [Title of that slide]       instead of the heading it stands under

A label that no chapter has, and a row that makes no slide, are warnings, which stop the build
under `-W`. The roles {slides}`text <plan>` and {slides-print}`text <plan>` link to a deck.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bs4 import Tag
from docutils import nodes
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup, escape
from mdit_py_plugins.dollarmath import dollarmath_plugin
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import ReferenceRole

from book.extensions.cards import read_chapters
from book.extensions.page_parts import BuiltPage, PartError
from book.extensions.sessions import PLANS, Plan, Row, read_plans
from book.extensions.teaching import steps_title

FOLDER = "slides"
TEMPLATES = Path(__file__).parent.parent / "assets" / "slides"
OPENING = "open"
NOTHING = Markup("")
# A picture as wide as this leaves room for its caption below it, a narrower one beside it.
WIDE = 1.5
logger = logging.getLogger(__name__)


class SlideError(ValueError):
    """A row of a plan of which no slide can be made; the message names plan, row and label."""


@dataclass(frozen=True)
class Slide:
    """One slide: HTML of its title, of what it shows and of the speaker's notes."""

    kind: str
    """CSS class: how the slide is laid out."""
    label: str
    """Label of what it shows; empty if it shows words of the plan."""
    title: Markup
    body: Markup
    notes: Markup = NOTHING


def _formula(content: str, options: dict[str, Any]) -> str:
    return f"\\({escape(content)}\\)"


MARKDOWN = MarkdownIt("commonmark", {"typographer": True}).enable(["replacements", "smartquotes"])
MARKDOWN.use(dollarmath_plugin, renderer=_formula)


def words(text: str) -> Markup:
    """Return one line of Markdown, with formulas between dollars, as HTML."""
    return Markup(MARKDOWN.renderInline(text))


def spoken(text: str) -> str:
    """Return a text with its short formulas as plain signs: a note has no typeset ones."""
    for formula, sign in {"\\(": "", "\\)": "", "\\mu": "μ", "\\sigma": "σ", "\\pi": "π"}.items():
        text = text.replace(formula, sign)
    return text


def listed(lines: list[str]) -> Markup:
    """Return lines of Markdown as paragraphs, one a line."""
    return NOTHING.join(Markup("<p>{}</p>").format(words(line)) for line in lines)


class Deck:
    """The slides of one plan, made from its page and the chapters behind it."""

    def __init__(self, site: Path, plan: Plan, page: BuiltPage, chapters: list[BuiltPage]) -> None:
        self.site = site
        self.plan = plan
        self.page = page
        self.chapters = chapters
        self.models: dict[str, Any] = {}
        """Stored states of the widgets on the slides, by model."""

    def slides(self) -> list[Slide]:
        """Return the slides of all rows in order.

        Raises:
            SlideError: A label is in none of the chapters, or a row makes no slide.
        """
        table = self.page.part(nodes.make_id(steps_title(self.plan)))
        made = []
        for number, (row, shown) in enumerate(
            zip(self.plan.rows, table.select("tbody > tr"), strict=True)
        ):
            cells = [Markup(cell.decode_contents()) for cell in shown.select("td")]
            try:
                slides = list(self._row(row, cells))
                if row is self.plan.rows[-1]:
                    slides.append(self._take_home())
                if unused := set(row.slide) - {OPENING, *row.labels()}:
                    raise SlideError(f"the row does not show {', '.join(sorted(unused))}")
                if not slides:
                    raise SlideError(f"it shows nothing; give it a title under slide: {OPENING}")
            except (SlideError, PartError) as error:
                where = f"{PLANS.as_posix()}, {self.plan.name}, row {number + 1}"
                raise SlideError(f"{where} ({row.what[:40]}…): {error}") from error
            made += [
                Slide(s.kind, s.label, s.title, s.body, s.notes + self._notes(number, cells, place))
                for place, s in zip(_places(len(slides)), slides, strict=True)
            ]
        return made

    def _row(self, row: Row, cells: list[Markup]) -> Iterator[Slide]:
        if OPENING in row.slide or row.run:
            title, *lines = row.slide.get(OPENING, ["Run"])
            link = Markup('<p class="run">{}</p>').format(cells[3]) if row.run else NOTHING
            yield Slide("words", "", words(title), listed(lines) + link)
        for label in row.labels():
            yield self._shown(label, row)

    def _shown(self, label: str, row: Row) -> Slide:
        title, *lines = row.slide.get(label, [""])
        if "#" in label:
            return self._section(label, title, lines)
        anchor = f"equation-{label}" if label.startswith("eq-") else label
        chapter = next((page for page in self.chapters if page.has(anchor)), None)
        if chapter is None:
            raise SlideError(f"no chapter of the session has {label!r}")
        part = chapter.part(anchor)
        source = f"../{chapter.uri}#{anchor}"
        heading = words(title) or escape(chapter.heading_before(anchor))
        if label.startswith("fig-"):
            return self._figure(label, heading, part, source, chapter)
        if label.startswith("eq-"):
            _link(part.select_one(".eqno"), source)
            return Slide("equation", label, heading, Markup(part) + listed(lines))
        return _boxed(label, title, lines, part, source, row)

    def _figure(
        self, label: str, title: Markup, part: Tag, source: str, chapter: BuiltPage
    ) -> Slide:
        picture, caption = part.find("img"), part.find("figcaption")
        if not isinstance(picture, Tag) or not isinstance(caption, Tag):
            raise SlideError(f"{label} has no picture or no caption")
        _link(part.select_one(".caption-number"), source)
        width, height = _pixels(self.site / str(picture["src"]).removeprefix("../"))
        picture["width"], picture["height"] = str(width), str(height)
        model = chapter.live_models().get(label)
        if model is None:
            return Slide("wide" if width >= WIDE * height else "tall", label, title, Markup(part))
        self.models[model] = chapter.widget_states()[model]
        view = Markup('<script type="application/vnd.jupyter.widget-view+json">{}</script>').format(
            Markup(json.dumps({"model_id": model}))
        )
        # The sliders need the room of the caption, so the speaker has it.
        notes = Markup("<p>{}</p>").format(spoken(caption.get_text(" ", strip=True)))
        return Slide("live", label, title, Markup(part) + view, notes)

    def _section(self, label: str, title: str, lines: list[str]) -> Slide:
        stem, _, heading = label.partition("#")
        uri = f"notebooks/{stem}.html"
        chapter = next((page for page in self.chapters if page.uri == uri), None)
        if chapter is None:
            raise SlideError(f"{stem} is no chapter of the session")
        if not lines:
            raise SlideError(f"a section is too long for a slide; write lines for {label!r}")
        source = Markup('<p class="source"><a href="../{}#{}">“{}”</a></p>').format(
            uri, chapter.section_anchor(heading), heading
        )
        return Slide("words", label, words(title) or escape(heading), listed(lines) + source)

    def _take_home(self) -> Slide:
        part = self.page.part(self.page.section_anchor("Take home")).find("ol")
        if not isinstance(part, Tag):
            raise SlideError(f"{self.page.uri} has no list to take home")
        return Slide("take-home", "", Markup("Take home"), Markup(part))

    def _notes(self, number: int, cells: list[Markup], place: str) -> Markup:
        begin, minutes, what, _, late = cells
        following = [*self.plan.clock()[number + 1 :], _hours(self.plan.minutes)]
        anchor = self.plan.say_anchor(number)
        said = Markup(self.page.part(anchor)) if self.plan.rows[number].say else NOTHING
        return Markup("<p>{} to {}: {} min{}</p>{}{}{}").format(
            _plain(begin), following[0], _plain(minutes), place, what, said, _late(late)
        )


def _places(count: int) -> list[str]:
    """Say for each slide of a row which one it is, if there are several."""
    return [f", slide {n} of {count}" for n in range(1, count + 1)] if count > 1 else [""] * count


def _hours(minutes: int) -> str:
    return f"{minutes // 60}:{minutes % 60:02d}"


def _plain(cell: Markup) -> str:
    return cell.striptags()


def _late(cell: Markup) -> Markup:
    return Markup("<p><em>When late:</em></p>{}").format(cell) if _plain(cell) else NOTHING


def _link(number: Tag | None, source: str) -> None:
    """Turn the number of a part into a link to its chapter."""
    if number is not None:
        number.string = number.get_text().strip()
        number.name = "a"
        number["href"] = source


def _boxed(label: str, title: str, lines: list[str], part: Tag, source: str, row: Row) -> Slide:
    """Return the slide of a claim or an exercise: its own title above, its number below."""
    head, number = part.select_one(".admonition-title"), part.select_one(".caption-number")
    if head is None or number is None:
        raise SlideError(f"{label} has no title or no number")
    number.extract()
    _link(number, source)
    head.extract()
    own = Markup(head.decode_contents().strip().removeprefix("(").removesuffix(")"))
    kind = "exercise" if label.startswith("ex-") else "claim"
    minutes = f": {row.minutes} minutes" if kind == "exercise" else ""
    source_line = Markup('<p class="source">{}{}</p>').format(Markup(number), minutes)
    return Slide(kind, label, words(title) or own, Markup(part) + listed(lines) + source_line)


def _pixels(path: Path) -> tuple[int, int]:
    """Return width and height of a PNG picture, from its header.

    Raises:
        SlideError: The file is no PNG picture.
    """
    head = path.read_bytes()[:24]
    if head[:8] != b"\x89PNG\r\n\x1a\n":
        raise SlideError(f"{path.name} is no PNG picture")
    width, height = struct.unpack(">II", head[16:])
    return width, height


# ---- The decks of a site ----------------------------------------------------------------------


def page_name(plan: str) -> str:
    """Return the name of the page that a plan has if it has a deck."""
    return f"book/teaching/{plan}"


def write_decks(app: Sphinx, exception: Exception | None) -> None:
    """Write the deck of every plan that has a page; what cannot be made is a warning."""
    if exception is not None or app.builder.format != "html":
        return
    root, site = Path(app.srcdir), Path(app.outdir)
    wanted: set[Path] = set()
    if (root / PLANS).is_file():
        for plan in read_plans(root, read_chapters(root)).values():
            if page_name(plan.name) in app.env.found_docs:
                wanted.add(_write_deck(app, plan))
    for stale in set((site / FOLDER).glob("*.html")) - wanted:
        stale.unlink()


def _write_deck(app: Sphinx, plan: Plan) -> Path:
    site = Path(app.outdir)
    path = site / FOLDER / f"{plan.name}.html"

    def built(docname: str) -> BuiltPage:
        return BuiltPage(site, app.builder.get_target_uri(docname))

    try:
        known = [stem for stem in plan.chapters if f"notebooks/{stem}" in app.env.found_docs]
        page = built(page_name(plan.name))
        deck = Deck(site, plan, page, [built(f"notebooks/{stem}") for stem in known])
        slides = deck.slides()
    except (SlideError, PartError) as error:
        logger.warning("slides: %s", error)
        return path
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined
    )
    text = environment.get_template("deck.html").render(
        project=app.config.project,
        author=app.config.author,
        language=app.config.language,
        licence=app.config.html_theme_options.get("extra_footer", ""),
        title=app.env.titles[page_name(plan.name)].astext(),
        page=page.uri,
        slides=slides,
        # "</" would end the element that holds the states.
        states=Markup(json.dumps({"state": deck.models}).replace("</", "<\\/")),
    )
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


class SlidesRole(ReferenceRole):
    """Link to the deck of a plan: {slides}`text <plan>`."""

    query = ""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Return the link; a plan without a deck is a warning."""
        root = Path(self.env.srcdir)
        plans = read_plans(root, read_chapters(root))
        if self.target not in plans or page_name(self.target) not in self.env.found_docs:
            logger.warning("no slides for %r", self.target, location=self.get_location())
        uri = f"{'../' * self.env.docname.count('/')}{FOLDER}/{self.target}.html{self.query}"
        return [nodes.reference(self.rawtext, self.title, internal=True, refuri=uri)], []


class PrintedSlidesRole(SlidesRole):
    """Link to the deck of a plan as pages, each followed by its notes."""

    query = "?view=print&showNotes=separate-page"


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the roles and connect to the end of the build."""
    app.add_role("slides", SlidesRole())
    app.add_role("slides-print", PrintedSlidesRole())
    app.connect("build-finished", write_decks)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
