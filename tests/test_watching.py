"""The stored policies: what the file promises, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from traitlets import TraitError

from offline_rl_lib import watching
from offline_rl_lib.data import load_dataset
from offline_rl_lib.failure import Support, predicted_q
from offline_rl_lib.pendulum import evaluation_starts, simulate
from offline_rl_lib.training import train
from offline_rl_lib.watching import NAMES, TRAINED, load_watched_policies, swing
from offline_rl_lib.widgets import SwingFigure

BC, OFF = "BC, narrow data", "penalty off, narrow data"
Change = Callable[[dict[str, Any]], Any]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    path = tmp_path / "policies.json"
    path.write_bytes(watching.WATCHED_FILE.read_bytes())
    return path


# ---- Reading ----------------------------------------------------------------------------------


def test_the_file_holds_every_policy_and_earns_what_it_says() -> None:
    watched = load_watched_policies()
    assert tuple(watched.policies) == NAMES
    for name in TRAINED:
        returns = simulate(watched.policies[name], *evaluation_starts())
        stored = watched.network(name).record["returns"]
        assert returns.mean() == pytest.approx(stored["mean"], abs=2)
        assert stored["starts"] == len(returns)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda d: d.update(format="something else"), "another file, or another version's"),
        (lambda d: d["policies"].pop(BC), f"incomplete: {BC} missing"),
        (lambda d: d["policies"][OFF].update(dataset_hash="0"), "stored with dataset_hash 0"),
        (lambda d: d["policies"][OFF]["settings"].update(seed=7), "stored with settings"),
        (lambda d: d["policies"][OFF].update(updates=10), "stored with updates 10, here it is"),
        (lambda d: d["policies"][OFF].pop("critics"), "damaged"),
        (lambda d: d["policies"][OFF]["policy"].pop(), "layers of shapes"),
        (lambda d: d["policies"][OFF]["policy"][0]["bias"].update(shape=[63]), "64 values"),
        (lambda d: d["policies"][OFF]["policy"][0]["bias"].update(float32="?"), "damaged"),
        (lambda d: d["optimum"]["grid"].update(angles=100), "a table of"),
        (lambda d: d.pop("reach"), "damaged"),
    ],
)
def test_a_changed_file_is_refused(copy: Path, change: Change, complaint: str) -> None:
    stored = json.loads(copy.read_text(encoding="utf-8"))
    change(stored)
    copy.write_text(json.dumps(stored), encoding="utf-8")
    with pytest.raises(ValueError, match=complaint) as failed:
        load_watched_policies(copy)
    assert str(copy) in str(failed.value)


def test_a_weight_that_is_no_number_is_refused(copy: Path) -> None:
    stored = json.loads(copy.read_text(encoding="utf-8"))
    stored["policies"][BC]["policy"][0]["bias"] = watching._encoded(np.full(64, np.nan))
    copy.write_text(json.dumps(stored), encoding="utf-8")
    with pytest.raises(ValueError, match="a weight is not a number"):
        load_watched_policies(copy)


def test_a_missing_or_half_written_file_says_how_to_make_it(copy: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"run\.py results"):
        load_watched_policies(copy.with_name("nothing.json"))
    copy.write_text(copy.read_text(encoding="utf-8")[:50_000], encoding="utf-8")
    with pytest.raises(ValueError, match=r"damaged: .*run\.py results"):
        load_watched_policies(copy)
    with pytest.raises(ValueError, match="damaged"):
        watching.store_watched_policies(copy)


# ---- Storing ----------------------------------------------------------------------------------


def test_what_is_stored_is_not_made_again(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing is missing")

    for name in ("train", "optimal_q", "_write"):
        monkeypatch.setattr(watching, name, refuse)
    watching.store_watched_policies(copy)


def test_a_foreign_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.json"
    path.write_text('{"mine": 1}', encoding="utf-8")
    with pytest.raises(ValueError, match="not written here"):
        watching.store_watched_policies(path)
    assert path.read_text(encoding="utf-8") == '{"mine": 1}'


def test_an_interrupted_making_goes_on_and_stores_the_trained_agents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, trained = tmp_path / "policies.json", []
    monkeypatch.setattr(watching, "TRAINED", {name: TRAINED[name] for name in (BC, OFF)})
    monkeypatch.setattr(watching, "UPDATES", 3)

    def short(agent: Any, *arguments: Any, **options: Any) -> None:
        if len(trained) == 1 and not path.exists():
            raise AssertionError("the first policy is stored before the second is trained")
        if len(trained) == stop:
            raise KeyboardInterrupt
        train(agent, *arguments, **options)
        trained.append(agent)

    monkeypatch.setattr(watching, "train", short)
    stop = 1
    with pytest.raises(KeyboardInterrupt):
        watching.store_watched_policies(path)
    with pytest.raises(ValueError, match=f"incomplete: {OFF} missing"):
        load_watched_policies(path)
    stop = 2
    watching.store_watched_policies(path)
    assert [type(agent).__name__ for agent in trained] == ["BC", "CQL"]
    watched = load_watched_policies(path)
    assert not path.with_name(path.name + ".part").exists()
    angle, velocity = torch.linspace(-3, 3, 50).double(), torch.linspace(-8, 8, 50).double()
    observation = torch.stack((angle.cos(), angle.sin(), velocity), dim=1).numpy()
    for name, agent in zip((BC, OFF), trained, strict=True):
        stored = watched.network(name)
        np.testing.assert_allclose(stored.act(observation), agent.act(observation), atol=1e-5)
    torque = torch.linspace(-2, 2, 5).double().expand(50, 5)
    expected = predicted_q(trained[1], angle, velocity, torque)
    q = watched.network(OFF).q(angle[:, None].numpy(), velocity[:, None].numpy(), torque.numpy())
    np.testing.assert_allclose(q, expected, atol=1e-5)
    assert watched.network(OFF).record["temperature"] == pytest.approx(
        float(trained[1].temperature)
    )


# ---- Using ------------------------------------------------------------------------------------


def test_what_a_policy_cannot_answer_it_says() -> None:
    watched = load_watched_policies()
    with pytest.raises(ValueError, match="it has no critics"):
        watched.network(BC).q(np.zeros(1), np.zeros(1), np.zeros(1))
    with pytest.raises(ValueError, match="wrap it: Sampled"):
        watched.network(BC).act(np.zeros((1, 3)), deterministic=False)
    for name in ("optimum", "nobody"):
        with pytest.raises(KeyError, match="No trained policy is called"):
            watched.network(name)
    assert set(watched.landscape(BC, 0.1, 0.0, np.zeros(2))) == {"kept", "best"}


def test_sampled_torques_have_the_policys_distribution() -> None:
    policy = load_watched_policies().network(OFF)
    observation = np.tile([1.0, 0.0, 0.5], (4_000, 1))
    drawn = watching.Sampled(policy, seed=1).act(observation)
    mean, std = (x[0, 0] for x in policy.distribution(observation[:1]))
    before = np.arctanh(drawn / 2)
    assert before.mean() == pytest.approx(mean, abs=4 * std / np.sqrt(4_000))
    assert before.std() == pytest.approx(std, rel=0.05)
    again = watching.Sampled(policy, seed=1).act(observation)
    np.testing.assert_array_equal(drawn, again)


def test_the_landscape_keeps_what_playing_on_brings() -> None:
    watched = load_watched_policies()
    one = swing(watched.policies[OFF], [0.4], [1.0])
    at = watched.landscape(OFF, 0.4, 1.0, one.torque[0])
    assert at["kept"][0] == pytest.approx(watched.kept(one.reward)[0], abs=1e-9)
    assert at["best"].shape == at["promised"].shape == (1,)


def test_the_scale_of_the_states_is_that_of_the_support() -> None:
    stored = json.loads(load_watched_policies().text)["data"]
    for name, table in stored.items():
        np.testing.assert_allclose(table["scale"], Support(load_dataset(name)).scale, rtol=1e-7)


@pytest.mark.parametrize(
    "setting", [{"policy": "nobody"}, {"angle": 4.0}, {"velocity": 9.0}, {"time": 201}]
)
def test_the_figure_refuses_what_it_cannot_show(setting: dict[str, Any]) -> None:
    with pytest.raises(TraitError, match=next(iter(setting))):
        SwingFigure(load_watched_policies(), **setting)


def test_the_figure_names_its_policy_and_carries_the_file() -> None:
    watched = load_watched_policies()
    figure = SwingFigure(watched, policy=BC, angle=0.5)
    assert repr(figure) == f"SwingFigure(policy={BC!r}, time=0, angle=0.5, velocity=0)"
    assert figure.get_state()["watched"] == watched.text
