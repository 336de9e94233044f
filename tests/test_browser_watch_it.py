"""The swinging pendulum of the built site: its numbers, its buttons, and when it keeps still."""

from __future__ import annotations

import json
import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial import KDTree
from test_browser_live_figures import LiveFigure

from offline_rl_lib import pendulum, watching
from offline_rl_lib.watching import NAMES, OPTIMUM, TRAINED, NetworkPolicy, Swing, Watched, swing

PAGE = "notebooks/18_watch_it"
OFF = "penalty off, narrow data"
STARTS = [(3.14, 0.0), (0.1, 0.0), (-1.0, 1.0), (2.0, -6.5)]
TOLERANCE = 1e-5


@cache
def watched() -> Watched:
    return watching.load_watched_policies()


class Swinging(LiveFigure):
    """The figure with its choice of policies and its buttons."""

    def choose(self, policy: str) -> None:
        self.root.locator("select").select_option(policy)

    def press(self, button: str) -> None:
        self.root.get_by_role("button", name=button, exact=True).click()

    @property
    def playing(self) -> bool:
        return bool(self.root.get_attribute("data-playing") == "true")


def opened(open_page: Any, **settings: Any) -> Swinging:
    page = open_page(PAGE, viewport={"width": 1280, "height": 900}, **settings).page
    return Swinging(page, "swing")


@pytest.fixture
def quiet(open_page: Any) -> Swinging:
    """The figure of a reader who asked for less motion: it waits."""
    return opened(open_page, reduced_motion="reduce")


# ---- Numbers ----------------------------------------------------------------------------------


def test_policies_and_dynamics_agree_with_the_library(quiet: Swinging) -> None:
    for name in NAMES:
        quiet.choose(name)
        policy = watched().policies[name]
        for angle, velocity in STARTS:
            quiet.move("angle", angle)
            quiet.move("velocity", velocity)
            rows = torch.tensor(quiet.data("episode"), dtype=torch.float64)
            assert rows.shape == (201, 4)
            assert rows[0, :2].tolist() == [angle, velocity]
            # Step by step from the page's own states: no error can hide behind another.
            theta, speed, torque, reward = rows.T
            observation = pendulum.observation_of(theta, speed).numpy()
            expected = np.asarray(policy.act(observation), np.float64)[:, 0]
            if name == OPTIMUM:  # Equally good torques are a matter of the last digit.
                cost = watched().cost(Swing(*rows.T.numpy()[:, :, None]))
                assert np.abs(cost).max() < TOLERANCE
            else:
                np.testing.assert_allclose(torque, expected, atol=TOLERANCE, err_msg=name)
            next_theta, next_speed, expected_reward = pendulum.step(theta, speed, torque)
            np.testing.assert_allclose(reward, expected_reward, atol=TOLERANCE)
            np.testing.assert_allclose(theta[1:], next_theta[:-1], atol=TOLERANCE)
            np.testing.assert_allclose(speed[1:], next_speed[:-1], atol=TOLERANCE)
            # And the whole episode, as the chapter plays it.
            whole = swing(policy, [angle], [velocity], 201)
            if name == OPTIMUM:
                assert reward.sum().item() == pytest.approx(whole.reward.sum(), abs=0.01)
            else:
                np.testing.assert_allclose(theta, whole.angle[:, 0], atol=TOLERANCE, err_msg=name)


def test_curves_agree_with_the_library(quiet: Swinging) -> None:
    for name in NAMES:
        quiet.choose(name)
        compare_curves(quiet, name)


def compare_curves(quiet: Swinging, name: str) -> None:
    policy = watched().policies[name]
    for (start, velocity), time in zip(STARTS, (4, 30, 77, 200), strict=True):
        quiet.move("angle", start)
        quiet.move("velocity", velocity)
        quiet.move("time", time)
        one = Swing(*np.array(quiet.data("episode")).T[:, :, None])  # compared above
        angle, speed, torque = (x[time, 0] for x in (one.angle, one.velocity, one.torque))
        after_ties = 1e-3 if name == OPTIMUM else TOLERANCE
        for curve, key in (("keptCurve", "kept"), ("bestCurve", "best")):
            torques, values = np.array(quiet.data(curve)).T
            expected = watched().landscape(name, angle, speed, torques)[key]
            np.testing.assert_allclose(values, expected, atol=after_ties, err_msg=curve)
        at_torque = watched().landscape(name, angle, speed, np.array([torque]))
        assert quiet.number("kept") == pytest.approx(at_torque["kept"][0], abs=after_ties)
        assert quiet.number("cost") == pytest.approx(watched().cost(one)[time, 0], abs=TOLERANCE)
        assert quiet.number("torque") == pytest.approx(torque, abs=TOLERANCE)
        assert quiet.number("speed") == pytest.approx(speed, abs=TOLERANCE)
        total = one.reward[:time].sum()
        assert quiet.number("total") == pytest.approx(total, abs=TOLERANCE)
        distance = (quiet.number("radians") - angle) / (2 * math.pi)
        assert distance == pytest.approx(round(distance), abs=TOLERANCE)
        if not (isinstance(policy, NetworkPolicy) and policy.critics):
            assert quiet.data("promisedCurve") == []
            assert "no critics" in quiet.root.locator("dl").inner_text()
            continue
        torques, values = np.array(quiet.data("promisedCurve")).T
        np.testing.assert_allclose(torques, np.linspace(-2, 2, 41), atol=1e-12)
        expected = policy.q(np.array(angle), np.array(speed), torques)
        np.testing.assert_allclose(values, expected, atol=TOLERANCE)
        assert quiet.number("promised") == pytest.approx(at_torque["promised"][0], abs=TOLERANCE)


def test_torques_of_the_data_are_those_of_the_nearest_states(quiet: Swinging) -> None:
    stored = json.loads(watched().text)["data"]
    for name, (dataset, _, _) in TRAINED.items():
        quiet.choose(name)
        quiet.move("angle", 0.6)
        quiet.move("velocity", 2.0)
        table, scale = watched().data[dataset], np.array(stored[dataset]["scale"])

        def seen(angle: Any, velocity: Any, scale: Any = scale) -> Any:
            return np.stack((np.cos(angle), np.sin(angle), velocity), axis=-1) / scale

        _, nearest = KDTree(seen(table[:, 0], table[:, 1])).query(seen(0.6, 2.0), 20)
        np.testing.assert_allclose(quiet.data("near"), table[nearest, 2], atol=1e-12)
    quiet.choose("optimum")
    assert quiet.data("near") == []


# ---- Buttons and motion -----------------------------------------------------------------------


def test_every_button_by_keyboard(quiet: Swinging) -> None:
    keyboard = quiet.page.keyboard
    quiet.root.locator("select").focus()
    assert quiet.number("time") == 0
    for button, time in (("Play", None), ("Step", 1), ("Back", 0), ("Reset", 0)):
        keyboard.press("Tab")
        focused = quiet.page.locator(":focus")
        assert focused.inner_text() == button
        assert focused.evaluate("node => getComputedStyle(node).outlineStyle") == "solid"
        if time is not None:
            keyboard.press("Enter")
            assert quiet.number("time") == time
    quiet.root.get_by_role("button", name="Step").focus()
    keyboard.press("Space")
    keyboard.press("Space")
    assert quiet.number("time") == 2
    assert "step 2 of 200" in quiet.root.locator("[role=status]").inner_text()
    quiet.root.locator("select").focus()
    keyboard.press("ArrowDown")
    assert quiet.root.locator("select").input_value() == "CQL, narrow data"
    assert quiet.number("time") == 0


def test_playing_moves_on_pauses_and_ends(quiet: Swinging) -> None:
    quiet.press("Play")
    quiet.page.wait_for_function("() => +document.querySelector('.swing').dataset.time > 5")
    assert quiet.playing
    quiet.press("Pause")
    paused = quiet.number("time")
    quiet.page.wait_for_timeout(300)
    assert quiet.number("time") == paused
    assert not quiet.playing
    quiet.move("time", 197)
    quiet.press("Play")
    quiet.page.wait_for_function(
        "() => document.querySelector('.swing').dataset.playing === 'false'"
    )
    assert quiet.number("time") == 200
    assert "step 200 of 200" in quiet.root.locator("[role=status]").inner_text()
    quiet.press("Play")  # from the end it begins again
    quiet.page.wait_for_function("() => +document.querySelector('.swing').dataset.time < 100")
    quiet.press("Reset")
    assert quiet.number("time") == 0
    assert not quiet.playing


def test_nothing_moves_by_itself(open_page: Any) -> None:
    figure = opened(open_page)
    figure.page.wait_for_timeout(400)
    assert figure.number("time") == 0
    assert not figure.playing
    figure.choose("CQL, narrow data")  # the reader asked for it: it plays at once
    assert figure.playing
    figure.page.wait_for_function("() => +document.querySelector('.swing').dataset.time > 1")


def test_who_asked_for_less_motion_gets_none_unasked(quiet: Swinging) -> None:
    quiet.choose("CQL, narrow data")
    quiet.page.wait_for_timeout(400)
    assert quiet.number("time") == 0
    assert not quiet.playing
    quiet.press("Play")
    quiet.page.wait_for_function("() => +document.querySelector('.swing').dataset.time > 1")


def test_the_pendulum_can_be_dragged_to_its_start(quiet: Swinging) -> None:
    quiet.move("time", 50)
    box = quiet.root.locator("svg.stage").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    quiet.page.mouse.move(*middle)
    quiet.page.mouse.move(middle[0], middle[1] - 60)
    quiet.page.mouse.down()
    quiet.page.mouse.move(middle[0] - 60, middle[1], steps=4)
    quiet.page.mouse.up()
    assert quiet.number("angle") == pytest.approx(math.pi / 2, abs=0.05)
    assert quiet.number("time") == 0
    rod = quiet.root.locator(".stage .rod")
    assert float(rod.get_attribute("x2")) == pytest.approx(-1, abs=0.01)


def test_a_phone_shows_the_pendulum_above_the_curves(open_page: Any) -> None:
    page = open_page(PAGE, viewport={"width": 390, "height": 844}).page
    figure = Swinging(page, "swing")
    stage = figure.root.locator("svg.stage").bounding_box()
    picture = figure.root.locator("svg.picture").bounding_box()
    assert stage["y"] + stage["height"] <= picture["y"] + 1
    assert picture["x"] + picture["width"] <= 390
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
