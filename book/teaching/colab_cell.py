"""Fetch the book, install what Colab lacks, and go to where the chapters are."""

import os
import subprocess
import sys
from pathlib import Path

BOOK = "https://example.org/cql-step-by-step.git"  # The address of your copy.

folder = Path("cql-step-by-step").resolve()
if not folder.exists():
    subprocess.run(["git", "clone", "--depth=1", BOOK, folder], check=True)
pip = [sys.executable, "-m", "pip", "install", "--quiet"]
subprocess.run([*pip, "--editable", folder, "myst-nb>=1.2,<2"], check=True)
sys.path.insert(0, str(folder))  # This session began before the installation.
os.chdir(folder / "notebooks")

from offline_rl_lib import load_dataset  # noqa: E402

print(f"Ready: {len(load_dataset('pendulum/replay-v0')):,} transitions to learn from.")
