"""The built site: complete, linked, self-contained, and described."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from bs4 import BeautifulSoup, Tag
from conftest import ROOT

LARGEST_PAGE = 2_000_000


def table_of_contents() -> list[str]:
    """Return the page names of `_toc.yml` in reading order."""
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    chapters = [chapter["file"] for part in contents["parts"] for chapter in part["chapters"]]
    return [contents["root"], *chapters]


PAGES = table_of_contents()
CHAPTERS = [page for page in PAGES if page.startswith("notebooks/")]


@cache
def parsed(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def article(site: Path, page: str) -> Tag:
    found = parsed(site / f"{page}.html").select_one("article.bd-article")
    assert found is not None, f"{page} has no article"
    return found


def test_the_table_of_contents_names_every_notebook_and_page() -> None:
    sources = {
        str(path.relative_to(ROOT).with_suffix("").as_posix())
        for pattern in ("notebooks/*.ipynb", "book/**/*.md")
        for path in ROOT.glob(pattern)
    }
    assert sources == set(PAGES)
    assert len(PAGES) == len(set(PAGES))


def test_the_site_holds_exactly_the_pages_of_the_contents(site: Path) -> None:
    built = {
        path.relative_to(site).with_suffix("").as_posix()
        for folder in ("book", "notebooks")
        for path in (site / folder).rglob("*.html")
    }
    assert built == set(PAGES)
    assert PAGES[0] in (site / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_every_page_has_one_title_and_text(site: Path, page: str) -> None:
    body = article(site, page)
    assert len(body.select("h1")) == 1
    assert len(body.get_text(" ", strip=True)) > 300, "a page needs more than its title"


# ---- Links ------------------------------------------------------------------------------------


def all_pages(site: Path) -> list[Path]:
    return [path for path in sorted(site.rglob("*.html")) if "_static" not in path.parts]


@cache
def anchors(path: Path) -> set[str]:
    soup = parsed(path)
    return {str(tag["id"]) for tag in soup.select("[id]")} | {
        str(tag["name"]) for tag in soup.select("a[name]")
    }


def broken_links(path: Path) -> list[str]:
    """Return every reference of a page to a file or anchor that does not exist."""
    broken = []
    for tag in parsed(path).select("[href], [src]"):
        for attribute in ("href", "src"):
            target = tag.get(attribute)
            if not isinstance(target, str) or target.startswith("data:"):
                continue
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not file.is_file():
                broken.append(f"{target}: no such file")
            elif file.suffix == ".html" and parts.fragment not in {"", *anchors(file)}:
                broken.append(f"{target}: no such anchor")
    return broken


def test_every_internal_link_and_anchor_resolves(site: Path) -> None:
    broken = {str(path.relative_to(site)): broken_links(path) for path in all_pages(site)}
    assert {name: links for name, links in broken.items() if links} == {}


def test_the_link_check_finds_what_is_broken(tmp_path: Path) -> None:
    (tmp_path / "b.html").write_text('<p id="here">x</p>', encoding="utf-8")
    links = ["b.html#here", "b.html#there", "c.html", "#top", "https://example.org/x"]
    page = tmp_path / "a.html"
    page.write_text("".join(f'<a href="{link}">x</a>' for link in links), encoding="utf-8")
    assert broken_links(page) == [
        "b.html#there: no such anchor",
        "c.html: no such file",
        "#top: no such anchor",
    ]


# ---- Nothing from outside ---------------------------------------------------------------------

LOADING = {
    **dict.fromkeys(("script", "img", "iframe", "source", "video", "audio", "embed"), "src"),
    "link": "href",
    "object": "data",
}
NOT_LOADED = {"canonical", "prev", "next", "author", "license", "index", "search"}
STYLE_URL = re.compile(r"""(?:url\(\s*|@import\s+)["']?([^"')\s;]+)""")


def outside(url: str) -> bool:
    return url.startswith("//") or urlsplit(url).scheme in {"http", "https", "ftp"}


def loaded_from_outside(path: Path) -> list[str]:
    soup = parsed(path)
    urls = [
        str(tag[attribute])
        for name, attribute in LOADING.items()
        for tag in soup.select(f"{name}[{attribute}]")
        if not NOT_LOADED & set(tag.get("rel") or [])
    ]
    for tag in soup.select("style"):
        urls += STYLE_URL.findall(tag.get_text())
    for tag in soup.select("[style]"):
        urls += STYLE_URL.findall(str(tag["style"]))
    return [url for url in urls if outside(url)]


def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    found = {str(path.relative_to(site)): loaded_from_outside(path) for path in all_pages(site)}
    assert {name: urls for name, urls in found.items() if urls} == {}


def test_no_style_sheet_loads_anything_from_another_host(site: Path) -> None:
    sheets = sorted(site.rglob("*.css"))
    assert sheets
    found = {
        str(path.relative_to(site)): [
            url
            for url in STYLE_URL.findall(path.read_text(encoding="utf-8", errors="replace"))
            if outside(url)
        ]
        for path in sheets
    }
    assert {name: urls for name, urls in found.items() if urls} == {}


# ---- Pictures ---------------------------------------------------------------------------------


EMPTY_ALT = re.compile(r"\.(png|svg|jpe?g|gif)$|^(plot|figure|image|picture) of", re.IGNORECASE)


@pytest.mark.parametrize("page", PAGES)
def test_every_picture_says_what_is_seen(site: Path, page: str) -> None:
    for picture in parsed(site / f"{page}.html").select("img"):
        alt = str(picture.get("alt") or "").strip()
        assert len(alt) >= 20, f"{picture.get('src')}: alt text {alt!r} says too little"
        assert not re.search(
            r"\.(png|svg|jpe?g|gif)$|^(plot|figure|image|picture) of", alt, re.I
        ), f"{picture.get('src')}: {alt!r} does not say what is seen"


@pytest.mark.parametrize("page", PAGES)
def test_every_page_with_its_pictures_is_small(site: Path, page: str) -> None:
    path = site / f"{page}.html"
    pictures = {
        (path.parent / str(tag["src"])).resolve() for tag in parsed(path).select("img[src]")
    }
    size = path.stat().st_size + sum(picture.stat().st_size for picture in pictures)
    assert size < LARGEST_PAGE, f"{page} has {size:,} bytes"
