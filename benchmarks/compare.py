"""The side of the measurement: contestants as processes, blocks in turn, ratios and spreads."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[1]
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "1000000000", "MALLOC_TRIM_THRESHOLD_": "1000000000"}
"""With these glibc's allocator keeps freed megabytes instead of giving them back to the system."""


class BenchmarkError(Exception):
    """Something that whoever runs the benchmark can mend; the message says what."""


class Contestant:
    """A process that runs blocks of updates on request.

    Args:
        name: names it in messages.
        command: program and arguments.
        environment: further environment variables.
    """

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        self.name, self.command = name, list(command)
        self.environment = {
            **{key: value for key, value in os.environ.items() if key not in KEEP_MEMORY},
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            **(environment or {}),
        }

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=self.environment,
        )
        self.versions: dict[str, str] = self._answer()["versions"]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self.process.kill()
        self.process.communicate()  # The end of its input is its end.

    def block(self, updates: int) -> dict[str, Any]:
        """Run that many updates and return what one of them cost."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{updates}\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            _, errors = self.process.communicate()
            raise BenchmarkError(
                f"The contestant {self.name!r} stopped. Its last words:\n{errors.strip()[-1500:]}"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer


def contestants(
    work: Mapping[str, int], d3rlpy_python: Path | None, python: str = sys.executable
) -> list[Contestant]:
    """List the contestants; ours take part twice, with the allocator as it is and set to keep."""
    task = json.dumps(dict(work))
    own = [python, "-m", "benchmarks.contestants"]
    listed = [
        Contestant("FastCQL", [*own, "FastCQL", task]),
        Contestant("FastCQL, memory kept", [*own, "FastCQL", task], KEEP_MEMORY),
        Contestant("CQL", [*own, "CQL", task]),
        Contestant("CQL, memory kept", [*own, "CQL", task], KEEP_MEMORY),
        Contestant("post's layout", [*own, "post's layout", task]),
        Contestant("matrix products", [*own, "matrix products", task]),
    ]
    if d3rlpy_python is not None:
        command = [str(d3rlpy_python), "-m", "benchmarks.d3rlpy_contestant", task]
        listed.append(Contestant("d3rlpy", command))
    return listed


def alternate(
    listed: Sequence[Contestant], rounds: int, updates: int
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, dict[str, str]]]:
    """Run the contestants' blocks in turn, every second round backwards.

    Returns:
        The blocks of each contestant, one a round, and its versions.
    """
    if rounds < 1 or updates < 1:
        raise BenchmarkError(
            f"At least one round of one update is needed; got {rounds} rounds of {updates}."
        )
    blocks: dict[str, list[dict[str, Any]]] = {one.name: [] for one in listed}
    with ExitStack() as stack:
        running = [stack.enter_context(one) for one in listed]
        for number in range(rounds):
            for one in running if number % 2 == 0 else reversed(running):
                blocks[one.name].append(one.block(updates))
        return blocks, {one.name: one.versions for one in running}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest value."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def summarise(
    blocks: Mapping[str, Sequence[Mapping[str, Any]]], reference: str = "FastCQL"
) -> dict[str, Any]:
    """Summarise the blocks of each contestant.

    Args:
        blocks: as :func:`alternate` returns them.
        reference: the contestant that the others are compared with, round by round.

    Returns:
        For each contestant the spread of processor and wall time per update in ms, updates per
        second of processor time, page faults per update, peak memory in MB, and under ``"times"``
        how many times the reference's processor time one of its updates takes.
    """
    if reference not in blocks:
        raise BenchmarkError(f"Nothing to compare with: no {reference!r} among {list(blocks)}.")
    table = {}
    for name, rounds in blocks.items():
        pairs = zip(rounds, blocks[reference], strict=True)
        faults = [one["faults"] for one in rounds if one["faults"] is not None]
        memory = [one["peak_mb"] for one in rounds if one["peak_mb"] is not None]
        cpu = spread([1e3 * one["cpu"] for one in rounds])
        table[name] = {
            "cpu_ms": cpu,
            "wall_ms": spread([1e3 * one["wall"] for one in rounds]),
            "updates_per_cpu_second": 1e3 / cpu["median"],
            "times": spread([one["cpu"] / own["cpu"] for one, own in pairs]),
            "faults": statistics.median(faults) if faults else None,
            "peak_mb": max(memory) if memory else None,
        }
    return table


def as_text(table: Mapping[str, Mapping[str, Any]], reference: str = "FastCQL") -> str:
    """Render the summary for people to read."""
    lines = [
        f"{'':<20}{'updates per':>12}{'CPU ms':>9}{'times ' + reference:>13}{'(spread)':>16}"
        f"{'wall ms':>9}{'faults':>8}{'peak MB':>9}",
        f"{'':<20}{'CPU second':>12}",
    ]
    for name, row in table.items():
        times = row["times"]
        between = f"{times['low']:.2f} to {times['high']:.2f}"
        faults = "-" if row["faults"] is None else f"{row['faults']:.0f}"
        memory = "-" if row["peak_mb"] is None else f"{row['peak_mb']:.0f}"
        lines.append(
            f"{name:<20}{row['updates_per_cpu_second']:>12.0f}{row['cpu_ms']['median']:>9.2f}"
            f"{times['median']:>13.2f}{between:>16}{row['wall_ms']['median']:>9.1f}{faults:>8}"
            f"{memory:>9}"
        )
    return "\n".join(lines)
