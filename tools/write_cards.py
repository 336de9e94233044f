"""Write the card "At a glance" into every chapter: python tools/write_cards.py.

The text comes from book/teaching/chapters.yml. Nothing is executed, and only the card changes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # The site's extensions are part of the repository, not installed.

from book.extensions.cards import CardError, Chapter, read_chapters, with_card  # noqa: E402


def write_card(path: Path, chapter: Chapter) -> bool:
    """Bring the card of one notebook up to date; return whether it changed.

    Raises:
        CardError: The first cell of the notebook does not hold exactly one card.
    """
    notebook = json.loads(path.read_text(encoding="utf-8"))
    first = notebook["cells"][0]
    before = "".join(first["source"])
    after = with_card(before, chapter)
    if before == after:
        return False
    first["source"] = after.splitlines(keepends=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    unfinished.write_text(text, encoding="utf-8", newline="\n")
    unfinished.replace(path)  # A kill leaves either the old notebook or the new one.
    return True


def main(root: Path = ROOT) -> int:
    """Write all cards under `root`; return 1 if any could not be written."""
    failed = 0
    for stem, chapter in read_chapters(root).items():
        try:
            changed = write_card(root / "notebooks" / f"{stem}.ipynb", chapter)
        except (CardError, FileNotFoundError) as error:
            print(f"{stem}: {error}", file=sys.stderr)
            failed = 1
        else:
            print(f"{stem}: {'written' if changed else 'as it was'}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
