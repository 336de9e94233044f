"""Execute the notebooks in place, store their outputs and measure how long they take.

``python run.py notebooks [name ...]`` calls this inside the book's environment. A notebook is
replaced only when every cell ran, silently on the error stream; otherwise it stays as it was.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
import uuid
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
CELL_LIMIT_SECONDS = 600
CELL_METADATA = ("mystnb", "slideshow", "tags")  # What the book uses; the rest is editor state.
PACKAGES = ("torch", "numpy", "gymnasium", "minari", "matplotlib")


class NotStored(Exception):
    """A notebook whose outputs must not be stored; the message says which cell and why."""


def execute(path: Path) -> tuple[NotebookNode, list[float]]:
    """Run a notebook from the top; return it with its outputs, and each cell's seconds."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=CELL_LIMIT_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        store_widget_state=True,
        record_timing=True,
        coalesce_streams=True,
    )
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        raise NotStored(str(error)) from error
    code_cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return notebook, [cell_seconds(cell) for cell in code_cells]


def cell_seconds(cell: NotebookNode) -> float:
    """Seconds between the start of a cell and the kernel's reply, from the recorded timing."""
    times = cell.metadata.get("execution", {})
    if "shell.execute_reply" not in times:  # An empty cell is not sent to the kernel.
        return 0.0
    ended, began = times["shell.execute_reply"], times["iopub.execute_input"]
    return (datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds()


def require_clean_outputs(notebook: NotebookNode) -> None:
    """Refuse outputs that differ elsewhere: the error stream, and paths of this machine."""
    paths = {str(ROOT), str(Path.home()), sys.prefix}
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name == "stderr":
                raise NotStored(f"cell {number} writes to the error stream:\n{output.text}")
            text = json.dumps(output)
            found = [path for path in paths if re.search(re.escape(json.dumps(path)[1:-1]), text)]
            if found:
                raise NotStored(f"cell {number} prints a path of this machine: {found[0]}")


def clean(notebook: NotebookNode) -> None:
    """Keep the metadata that the book uses, and drop editor state and timings, in place."""
    widgets = notebook.metadata.get("widgets")
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    notebook.metadata = NotebookNode(kernelspec=kernel, language_info={"name": "python"})
    if widgets:
        notebook.metadata["widgets"] = widgets
    for cell in notebook.cells:
        kept = {key: cell.metadata[key] for key in CELL_METADATA if key in cell.metadata}
        cell.metadata = NotebookNode(kept)


def as_text(notebook: NotebookNode, stem: str) -> str:
    """Write a notebook as JSON, with widget names that repeat from run to run."""
    text: str = nbformat.writes(notebook)
    states = notebook.metadata.get("widgets", {})
    models = states.get("application/vnd.jupyter.widget-state+json", {}).get("state", {})
    for number, model in enumerate(models):
        text = text.replace(model, uuid.uuid5(uuid.NAMESPACE_OID, f"{stem}/{number}").hex)
    return text.rstrip("\n") + "\n"


def replace(path: Path, text: str) -> None:
    """Write a file so that a kill leaves either the old one or the new one."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(text, encoding="utf-8", newline="\n")
    unfinished.replace(path)


def store(path: Path) -> dict[str, float]:
    """Execute one notebook and replace it; return its times in seconds.

    Raises:
        NotStored: A cell failed or its output does not repeat; the file is untouched.
    """
    notebook, seconds = execute(path)
    require_clean_outputs(notebook)
    clean(notebook)
    nbformat.validate(notebook)
    replace(path, as_text(notebook, path.stem))
    return {
        "seconds": round(sum(seconds), 2),
        "slowest_cell_seconds": round(max(seconds, default=0.0), 2),
    }


def environment() -> dict[str, str | int]:
    """Versions and machine behind the stored outputs."""
    return {
        "Python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        "operating system": platform.system(),
        "processor cores": os.cpu_count() or 1,
    }


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Store results for the pages to read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, json.dumps(values, indent=2) + "\n")


def chosen(names: Sequence[str], folder: Path) -> list[Path]:
    """Find the notebooks named by stem, number ("02") or path; all of them if none is named."""
    notebooks = sorted(folder.glob("*.ipynb"))
    if not names:
        return notebooks
    found = []
    for name in names:
        stem = Path(name).stem if name.endswith(".ipynb") else name
        matches = [path for path in notebooks if stem in (path.stem, path.stem.split("_")[0])]
        if not matches:
            known = ", ".join(path.stem for path in notebooks)
            raise SystemExit(f"There is no notebook {name!r} in {folder}. There are: {known}.")
        found += matches
    return found


def main(arguments: Sequence[str], root: Path = ROOT) -> int:
    """Store the chosen notebooks under `root`; return 1 if any could not be."""
    parser = argparse.ArgumentParser(description="Execute notebooks and store their outputs.")
    parser.add_argument("names", nargs="*", metavar="name")
    os.environ["OFFLINE_RL_PROGRESS"] = "0"
    os.environ.pop("MPLBACKEND", None)  # Another backend would store no figures.
    folder, results = root / "notebooks", root / "book" / "results"
    paths = chosen(parser.parse_args(arguments).names, folder)
    if not paths:
        raise SystemExit(f"There is no notebook in {folder}.")
    record = results / "chapter_times.json"
    times = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    failed = []
    for path in paths:
        print(f"{path.stem} ...", flush=True)
        try:
            times[path.stem] = store(path)
        except NotStored as reason:
            failed.append(path.stem)
            print(f"{path.stem}: not stored, the file is as it was.\n{reason}", file=sys.stderr)
        else:
            taken = times[path.stem]
            print(
                f"{path.stem}: stored; {taken['seconds']:.1f} s,"
                f" slowest cell {taken['slowest_cell_seconds']:.1f} s",
                flush=True,
            )
    present = {path.stem for path in folder.glob("*.ipynb")}
    write_json(record, {stem: times[stem] for stem in sorted(times) if stem in present})
    if len(failed) < len(paths):
        write_json(results / "environment.json", environment())
    if failed:
        print(f"Not stored: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
