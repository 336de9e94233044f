"""The benchmark compares like with like, reports in one form, and says what is wrong.

No time is asserted anywhere.
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks.compare import (
    ROOT,
    BenchmarkError,
    Contestant,
    alternate,
    as_text,
    spread,
    summarise,
)
from benchmarks.contestants import CONTESTANTS, Work, floor, make_agent, make_batches
from benchmarks.parts import generated_dataset
from benchmarks.post_style import PostStyleCQL
from offline_rl_lib.plain import PlainCQL, draw_noise

SMALL = Work(batch_size=16, proposals=2, width=8)
OURS = {"FastCQL", "FastCQL, memory kept", "CQL", "CQL, memory kept"}
ALL = OURS | {"post's layout", "matrix products", "d3rlpy"}


# ---- the same mathematics ------------------------------------------------------------------------


def updated(work: Work, updates: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Numbers before, of the library after, of the post's layout after; the same draws."""
    agent = make_agent(work)
    slow, start = PostStyleCQL(agent), PlainCQL(agent).numbers()
    for batch in make_batches(work, updates):
        source = torch.Generator()
        source.set_state(agent.generator.get_state())
        slow.update(batch, draw_noise(agent, work.batch_size, source))
        agent.update(batch)
    return start, PlainCQL(agent).numbers(), slow.numbers()


@pytest.mark.parametrize("work", [SMALL, Work(batch_size=16, width=8, action_size=3)])
def test_the_posts_layout_computes_what_the_library_computes(work: Work) -> None:
    start, ours, theirs = updated(work)
    assert (ours - start).abs().max() > 1e-3
    assert (ours - theirs).abs().max() < 1e-4  # float32; Adam's first steps see a gradient's sign


def test_the_posts_layout_keeps_the_graph_of_its_proposals() -> None:
    agent = make_agent(SMALL)
    batch = make_batches(SMALL, 1)[0]
    noise = draw_noise(agent, SMALL.batch_size, agent.generator)
    kept = PostStyleCQL(agent).proposals(batch, noise)
    assert [action.requires_grad for action, _ in kept] == [False, True, True]
    assert not any(log_density.requires_grad for _, log_density in kept)
    plain = PlainCQL(agent).proposals(batch, noise)
    for (action, log_density), (expected, expected_log) in zip(kept, plain, strict=True):
        torch.testing.assert_close(action, expected)
        torch.testing.assert_close(log_density, expected_log)


def test_the_floor_multiplies_what_the_critic_loss_multiplies() -> None:
    """Every product of a large pass is in the floor, and nothing else."""
    from torch.utils.flop_counter import FlopCounterMode

    agent, batch = make_agent(SMALL), make_batches(SMALL, 1)[0]
    target = agent.td_target(batch)
    with FlopCounterMode(display=False) as expected:
        actions = torch.zeros(SMALL.batch_size, SMALL.rows // SMALL.batch_size, 1)
        loss = (agent.critic(batch.observation, actions) - target[:, None]).square().sum()
        loss.backward(inputs=list(agent.critic.parameters()))
    products = floor(SMALL)
    with FlopCounterMode(display=False) as counted:
        products()
    # The library multiplies the observations once for all actions: fewer rows in the first layer.
    rows, size, width = SMALL.rows, SMALL.batch_size, SMALL.width
    saved = 2 * 2 * 2 * (rows - size) * SMALL.observation_size * width
    assert counted.get_total_flops() == expected.get_total_flops() + saved


def test_all_contestants_get_the_same_work() -> None:
    for name in CONTESTANTS:
        CONTESTANTS[name](SMALL)()
    assert Work().rows == 1024
    defaults = ast.parse((ROOT / "benchmarks/d3rlpy_contestant.py").read_text())
    work = next(
        ast.literal_eval(ast.Dict(node.value.keys[:-1], node.value.values[:-1]))
        for node in ast.walk(defaults)
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Dict)
        and getattr(node.targets[0], "id", "") == "work"
    )
    assert work == {name: value for name, value in vars(Work()).items() if name != "seeds"}


# ---- the report ----------------------------------------------------------------------------------


def block(cpu: float, **other: Any) -> dict[str, Any]:
    return {"cpu": cpu, "wall": 2 * cpu, "faults": 3, "peak_mb": 100.0} | other


def test_ratios_are_taken_round_by_round() -> None:
    """A machine that slows down hits both; the ratio of the medians would say something else."""
    blocks = {
        "FastCQL": [block(0.01), block(0.02), block(0.04)],
        "other": [block(0.03), block(0.06), block(0.20, peak_mb=140.0)],
    }
    table = summarise(blocks)
    assert table["other"]["times"] == pytest.approx({"median": 3, "low": 3, "high": 5})
    assert table["FastCQL"]["times"] == {"median": 1, "low": 1, "high": 1}
    assert table["other"]["cpu_ms"] == pytest.approx({"median": 60, "low": 30, "high": 200})
    assert table["FastCQL"]["updates_per_cpu_second"] == pytest.approx(50)
    assert table["other"]["peak_mb"] == 140
    assert as_text(table).count("\n") == 3


def test_what_a_system_does_not_tell_is_left_out() -> None:
    table = summarise({"FastCQL": [block(0.01, faults=None, peak_mb=None)]})
    assert table["FastCQL"]["faults"] is None
    assert table["FastCQL"]["peak_mb"] is None
    assert " - " in as_text(table)


def test_spread() -> None:
    assert spread([3.0, 1.0, 8.0]) == {"median": 3.0, "low": 1.0, "high": 8.0}


def test_processes_take_turns_and_come_to_an_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    listed = [
        Contestant(
            name,
            [
                sys.executable,
                "-c",
                "import sys; from benchmarks.blocks import serve; from pathlib import Path\n"
                f"serve(lambda: Path({str(log)!r}).open('a').write({name!r}), {{'v': '1'}})",
            ],
        )
        for name in "AB"
    ]
    blocks, versions = alternate(listed, rounds=3, updates=2)
    assert {name: len(rounds) for name, rounds in blocks.items()} == {"A": 3, "B": 3}
    assert versions == {"A": {"v": "1"}, "B": {"v": "1"}}
    assert log.read_text().replace("AAAAABBBBB", "", 1) == "AABBBBAAAABB"
    assert all(one.process.returncode == 0 for one in listed)


def test_the_whole_command_on_tiny_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "benchmark.json"
    arguments = ["--tiny", "--without-d3rlpy", "--output", str(path)]
    assert command.main([*arguments, "update", "growth"]) == 0
    assert command.main([*arguments, "large", "policy"]) == 0
    results = json.loads(path.read_text(encoding="utf-8"))
    assert set(results) == {"update", "growth", "large", "policy"}
    update = results["update"]["measured"]
    assert set(update["contestants"]) == ALL - {"d3rlpy"}
    for row in update["contestants"].values():
        for key in ("cpu_ms", "wall_ms", "times"):
            assert 0 < row[key]["low"] <= row[key]["median"] <= row[key]["high"]
    growth = results["growth"]["measured"]
    for size, values in growth.items():
        names = {"CQL"} if size == "seeds" else {"CQL", "FastCQL"}
        for costs in values.values():
            assert set(costs) == names
            assert all(set(cost) == {"median", "low", "high"} for cost in costs.values())
    large = results["large"]["measured"]
    assert large["transitions"] == 2000
    assert large["tensors_mb"] == pytest.approx(2000 * (4 * 8 + 2 + 8) / 2**20)
    (policy,) = results["policy"]["measured"]
    assert policy["updates"] == [2]
    assert policy["mean_return"][0] < -500, "two updates are not enough"
    assert policy["wall_s"][0] > 0
    assert all({"machine", "torch", "measured"} == set(part) for part in results.values())
    assert "post's layout" in capsys.readouterr().out


def test_the_stored_report_is_well_formed() -> None:
    results = command.stored(command.RESULTS)
    update = results["update"]["measured"]
    assert set(update["contestants"]) == ALL
    assert update["versions"]["d3rlpy"]["d3rlpy"] == command.D3RLPY
    assert update["rounds"] >= 5


# ---- what is wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["memory"], "No part memory. There are: update, growth, data, large, policy."),
        (["--rounds", "0", "--without-d3rlpy", "update"], "got 0 rounds of 10"),
        (["--seeds", "0", "policy"], "At least one seed is needed; got 0."),
    ],
)
def test_impossible_wishes_are_named(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "benchmark.json"
    assert command.main([*arguments, "--output", str(path)]) == 1
    assert message in capsys.readouterr().err
    assert not path.exists()


@pytest.mark.parametrize("text", ["{", '{"post_run": 1}', "[]"])
def test_a_file_of_something_else_is_not_overwritten(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    assert command.main(["--tiny", "growth", "--output", str(path)]) == 1
    assert str(path) in capsys.readouterr().err
    assert path.read_text() == text


def test_a_contestant_that_stops_says_why() -> None:
    broken = Contestant("broken", [sys.executable, "-c", "raise SystemExit('no luck')"])
    with pytest.raises(BenchmarkError, match=r"'broken' stopped(.|\n)*no luck"):
        alternate([broken], rounds=1, updates=1)


def test_without_the_reference_there_is_nothing_to_compare_with() -> None:
    with pytest.raises(BenchmarkError, match="no 'FastCQL'"):
        summarise({"floor": [block(0.01)]})


@pytest.mark.parametrize("name", list(vars(Work())))
def test_impossible_work_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1; got 0"):
        Work(**{name: 0})


@pytest.mark.parametrize("transitions", [0, 199, 201])
def test_generated_episodes_are_whole(transitions: int) -> None:
    with pytest.raises(ValueError, match="multiple of 200"):
        generated_dataset(transitions)


def test_without_a_network_d3rlpy_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("UV_INDEX", "UV_FIND_LINKS", "UV_EXTRA_INDEX_URL", "UV_DEFAULT_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    assert command.d3rlpy_python(tmp_path / "environment") is None
    assert "Left out: d3rlpy 2.8.1" in capsys.readouterr().out
    assert not (tmp_path / "environment" / "finished").exists()
