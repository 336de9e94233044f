"""Quizzes in the page: `{quiz} <notebook stem>` to answer, `{quiz-key}` for the teacher.

A question is a form of native radio buttons with its explanations folded below. That is all a
reader without scripts and the printed page need; `site/quiz.js` turns it into feedback.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

from book.extensions.quizzes import QUIZZES, Option, Question, QuizError, read_quiz, read_quizzes

VOID = {"input"}
"""Elements of HTML that have no end tag."""


class html_element(nodes.General, nodes.Element):  # type: ignore[misc]
    """One element of HTML: its `tag`, its `attributes` and what is inside."""


def element(tag: str, *inside: nodes.Node, ids: str = "", css: str = "", **more: str) -> nodes.Node:
    """Return an element of HTML; underscores in the names of attributes become hyphens."""
    attributes = {name.rstrip("_").replace("_", "-"): value for name, value in more.items()}
    return html_element(
        "", *inside, tag=tag, attributes=attributes, ids=ids.split(), classes=css.split()
    )


def visit_element(translator: Any, node: nodes.Element) -> None:
    """Write the start tag."""
    translator.body.append(translator.starttag(node, node["tag"], "", **node["attributes"]))


def depart_element(translator: Any, node: nodes.Element) -> None:
    """Write the end tag."""
    if node["tag"] not in VOID:
        translator.body.append(f"</{node['tag']}>\n")


class QuizTexts(SphinxDirective):
    """What both directives share: texts of a quiz parsed as MyST."""

    def blocks(self, text: str) -> list[nodes.Node]:
        """Return the paragraphs and other blocks of a text."""
        container = nodes.Element()
        lines = StringList(text.splitlines(), source=self.get_source_info()[0])
        self.state.nested_parse(lines, 0, container)
        return container.children

    def line(self, option: Option) -> list[nodes.Node]:
        """Return the inside of the single paragraph of an option."""
        blocks = self.blocks(option.text)
        if len(blocks) != 1 or not isinstance(blocks[0], nodes.paragraph):
            raise self.error(f"the option {option.text!r} has to be a single paragraph")
        return blocks[0].children

    def explanation(self, option: Option) -> list[nodes.Node]:
        """Return the explanation, which begins with the verdict in words."""
        verdict = f"{option.letter} is {'right' if option.right else 'wrong'}."
        blocks = self.blocks(option.explanation)
        if not isinstance(blocks[0], nodes.paragraph):
            blocks.insert(0, nodes.paragraph())
        blocks[0].insert(0, [nodes.strong("", verdict), nodes.Text(" ")])
        return blocks


class QuizDirective(QuizTexts):
    """Show the questions of one chapter as forms."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the forms."""
        path = Path(self.env.srcdir) / QUIZZES / f"{self.arguments[0]}.yml"
        self.env.note_dependency(str(path))
        try:
            questions = read_quiz(path).questions
        except QuizError as error:
            raise self.error(str(error)) from error
        forms = [self.form(number, question) for number, question in enumerate(questions, 1)]
        return [element("div", *forms, css="quiz")]

    def form(self, number: int, question: Question) -> nodes.Node:
        """Return one question with its options, and its explanations folded."""
        name = f"quiz-{question.id}"
        number_id, prompt_id = f"{name}-number", f"{name}-prompt"
        fields = element(
            "fieldset",
            element("legend", nodes.Text(f"Question {number}"), ids=number_id),
            element("div", *self.blocks(question.prompt), ids=prompt_id, css="quiz-prompt"),
            *(self.choice(name, option) for option in question.options),
            # A legend holds one line of text, so the prompt joins the group's name from here.
            aria_labelledby=f"{number_id} {prompt_id}",
        )
        # Scripts show the buttons; without scripts a button that does nothing would mislead.
        actions = element(
            "p",
            element("button", nodes.Text("Check"), type="submit"),
            element("button", nodes.Text("Clear"), type="reset"),
            css="quiz-actions",
            hidden="hidden",
        )
        # A region that speaks has to be there before it has something to say.
        feedback = element("div", css="quiz-feedback", role="status")
        folded = element(
            "details",
            element("summary", nodes.Text("Answer and explanations")),
            *(self.verdict(option) for option in question.options),
            css="quiz-explanations",
        )
        # The method "dialog" sends nothing anywhere, also when no script is there to stop it.
        return element("form", fields, actions, feedback, folded, ids=name, method="dialog")

    def choice(self, name: str, option: Option) -> nodes.Node:
        """Return one radio button with its label."""
        button_id = f"{name}-{option.letter.lower()}"
        button = element("input", ids=button_id, type="radio", name=name, value=option.letter)
        # Inline nodes and no elements: typographic quotes are made in nodes of docutils only.
        text = nodes.inline("", "", *self.line(option))
        letter = nodes.inline("", f"{option.letter}.", classes=["quiz-letter"])
        return element("div", button, element("label", letter, text, for_=button_id))

    def verdict(self, option: Option) -> nodes.Node:
        """Return why one option is right or wrong."""
        verdict = "right" if option.right else "wrong"
        explanation = self.explanation(option)
        return element("div", *explanation, data_option=option.letter, data_verdict=verdict)


class QuizKeyDirective(QuizTexts):
    """Show every question of the book with its answer and explanations, by chapter."""

    def run(self) -> list[nodes.Node]:
        """Return one section a chapter."""
        self.env.note_reread()  # a chapter may get its quiz without this page changing
        try:
            quizzes = read_quizzes(Path(self.env.srcdir) / QUIZZES)
        except QuizError as error:
            raise self.error(str(error)) from error
        sections: list[nodes.Node] = []
        for quiz in quizzes:
            [title] = self.blocks(f"{{doc}}`/notebooks/{quiz.chapter}`")
            name = f"quiz-key-{quiz.chapter.replace('_', '-')}"
            section = nodes.section("", nodes.title("", "", *title.children), ids=[name])
            for number, question in enumerate(quiz.questions, 1):
                section += self.solved(number, question)
            sections.append(section)
        return sections

    def solved(self, number: int, question: Question) -> list[nodes.Node]:
        """Return a question, and each option with its explanation."""
        right = next(option.letter for option in question.options if option.right)
        head = nodes.paragraph("", "", nodes.strong("", f"Question {number}: answer {right}"))
        options = nodes.definition_list(classes=["quiz-key"])
        for option in question.options:
            term = nodes.term("", f"{option.letter}. ", *self.line(option))
            definition = nodes.definition("", *self.explanation(option))
            options += nodes.definition_list_item("", term, definition)
        return [head, *self.blocks(question.prompt), options]


def name_chapters_in_contents(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Give a heading that is a link to a chapter the chapter's title in the page's contents.

    Contents are collected while a page is read, when the titles of other pages are not known yet.
    """
    for contents in env.tocs.values():
        for text in list(contents.findall(nodes.Text)):
            title = env.titles.get(text.astext().removeprefix("/"))
            if title is not None and text.startswith("/"):
                text.parent.replace(text, nodes.Text(title.astext()))
    return []


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the node, the directives and the event."""
    app.add_node(html_element, html=(visit_element, depart_element))
    app.connect("env-updated", name_chapters_in_contents)
    app.add_directive("quiz", QuizDirective)
    app.add_directive("quiz-key", QuizKeyDirective)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
