"""The live figures of the built site: by mouse, by keyboard, and their numbers."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from offline_rl_lib import TanhNormal, log_mean_exp_q, tabular
from offline_rl_lib.experiments import RESULTS

FIGURES = {
    "tanh-normal": "notebooks/04_tanh_normal",
    "proposals": "notebooks/06_logsumexp_penalty",
    "target-filter": "notebooks/11_target_networks",
    "q-landscape": "notebooks/03_why_offline_fails",
    "tabular-bound": "notebooks/14_theorems",
    "weight-sweep": "notebooks/16_when_conservatism_helps",
    "swing": "notebooks/18_watch_it",
}
"""CSS class of each live figure, and the page that it stands on."""


class LiveFigure:
    """The sliders of a live figure and the numbers that it shows."""

    def __init__(self, page: Any, name: str) -> None:
        self.page = page
        self.root = page.locator(f".live-figure .{name}").first
        self.root.scroll_into_view_if_needed()

    def slider(self, name: str) -> Any:
        return self.root.locator(f"input[name={name}]")

    def move(self, name: str, position: float) -> None:
        """Put a slider to a position: its value, or the place in its list of values."""
        self.slider(name).evaluate(
            "(input, value) => { input.value = value;"
            " input.dispatchEvent(new Event('input', {bubbles: true})); }",
            str(position),
        )

    def number(self, name: str) -> float:
        return float(self.root.evaluate("(root, name) => root.dataset[name]", name))

    def data(self, name: str) -> Any:
        return json.loads(self.root.evaluate("(root, name) => root.dataset[name]", name))


@pytest.fixture
def live(open_page: Any, request: pytest.FixtureRequest) -> LiveFigure:
    name = request.param if hasattr(request, "param") else "tanh-normal"
    opened = open_page(FIGURES[name], viewport={"width": 1280, "height": 900})
    return LiveFigure(opened.page, name)


def on(name: str) -> Any:
    """Run a test on one live figure."""
    return pytest.mark.parametrize("live", [name], indirect=True)


# ---- What holds for every live figure ----------------------------------------------------------


@pytest.mark.parametrize("live", FIGURES, indirect=True)
def test_every_slider_moves_the_figure_by_keyboard_and_by_mouse(live: LiveFigure) -> None:
    for slider in live.root.locator("input").all():
        name = slider.get_attribute("name")
        slider.focus()
        live.page.keyboard.press("Home")
        lowest = live.number(name)
        live.page.keyboard.press("ArrowRight")
        assert live.number(name) > lowest
        assert slider.evaluate("input => getComputedStyle(input).outlineStyle") == "solid"
        box = slider.bounding_box()
        live.page.mouse.click(box["x"] + 0.98 * box["width"], box["y"] + box["height"] / 2)
        assert live.number(name) > lowest
        # The reader without a screen hears the result once the slider rests.
        assert live.root.locator("[role=status]").inner_text()


@pytest.mark.parametrize("live", FIGURES, indirect=True)
def test_live_figure_names_its_parts(live: LiveFigure) -> None:
    for slider in live.root.locator("input").all():
        label = live.root.locator(f"label[for='{slider.get_attribute('id')}']")
        assert label.inner_text().strip()
    picture = live.root.locator("svg[role=img]")
    for identifier in picture.get_attribute("aria-labelledby").split():
        assert live.root.locator(f"#{identifier}").text_content().strip()
    # Words, not only ticks: both axes say what they show.
    labels = [
        text for text in picture.locator("text").all_text_contents() if text[-1] not in "0123456789"
    ]
    assert len(labels) == 2
    for shown in live.root.locator("dd").all():
        assert math.isfinite(float(shown.inner_text().replace("−", "-")))


@pytest.mark.parametrize(("name", "page"), FIGURES.items())
def test_still_picture_on_paper_and_without_scripts(open_page: Any, name: str, page: str) -> None:
    live = open_page(page).page
    still = live.locator(f"figure:has(.{name}) .still-of-live-figure")
    assert still.count() == 1
    assert not still.is_visible()
    live.emulate_media(media="print")
    assert still.is_visible()
    assert not live.locator(f".live-figure:has(.{name})").is_visible()
    code = live.locator("div.highlight pre").first
    assert code.evaluate("pre => getComputedStyle(pre).whiteSpace") == "pre-wrap"
    scriptless = open_page(page, java_script_enabled=False)
    assert scriptless.page.locator("figure img").first.is_visible()


@pytest.mark.parametrize("name", ["q-landscape", "proposals", "swing"])
def test_a_link_to_a_live_figure_leads_to_it(open_page: Any, name: str) -> None:
    opened = open_page(FIGURES[name]).page
    label = opened.locator(f"figure:has(.{name})").get_attribute("id")
    url = f"{opened.url}#{label}"
    opened.goto("about:blank")  # A change of the fragment alone would not load the page again.
    opened.goto(url)
    figure = opened.locator(f"figure:has(.{name})")
    figure.locator("input").first.wait_for()
    top = figure.evaluate("figure => figure.getBoundingClientRect().top")
    assert 0 <= top < 150, "the figure moved below its text and left the window"


# ---- The tanh-normal density -------------------------------------------------------------------

BOUNDS_FIRST = ("low", "high", "low", "mean", "std", "probe")
SETTINGS = [
    {"mean": 0.0, "std": 0.5, "low": -2.0, "high": 2.0, "probe": 0.5},
    {"mean": 1.25, "std": 0.1, "low": -1.0, "high": 1.0, "probe": 0.83},
    {"mean": -2.0, "std": 2.0, "low": -0.5, "high": 3.3, "probe": 3.29},
    {"mean": 2.0, "std": 2.0, "low": -4.0, "high": 4.0, "probe": -3.99},
    {"mean": 0.0, "std": 0.75, "low": 1.1, "high": 1.3, "probe": 1.2},
    {"mean": 0.35, "std": 1.3, "low": -3.9, "high": -3.7, "probe": -3.71},
]


def tanh_normal(mean: float, std: float, low: float, high: float) -> TanhNormal:
    mean_, std_, low_, high_ = torch.tensor([mean, std, low, high], dtype=torch.float64)[:, None]
    return TanhNormal(mean_, std_, low_, high_)


def density(setting: dict[str, float], actions: list[float]) -> list[float]:
    """Return the library's density at the actions."""
    box = {name: setting[name] for name in ("mean", "std", "low", "high")}
    values = torch.tensor(actions, dtype=torch.float64)[:, None]
    return tanh_normal(**box).log_prob(values).exp().tolist()


def setting_of(live: LiveFigure) -> dict[str, float]:
    return {name: live.number(name) for name in ("mean", "std", "low", "high", "probe")}


@pytest.mark.parametrize("setting", SETTINGS)
def test_tanh_normal_agrees_with_the_library(live: LiveFigure, setting: dict[str, float]) -> None:
    for name in BOUNDS_FIRST:  # so that nothing is pushed back
        live.move(name, setting[name])
    assert setting_of(live) == setting
    assert live.number("density") == pytest.approx(
        density(setting, [setting["probe"]])[0], rel=1e-6
    )
    actions, values = map(list, zip(*live.data("curve"), strict=True))
    assert len(actions) > 40
    assert values == pytest.approx(density(setting, actions), rel=1e-6, abs=1e-300)
    assert live.number("integral") == pytest.approx(1, abs=1e-6)
    shown = live.root.locator("dd").first.inner_text()
    assert shown == "1.000000"


def test_keys_move_a_slider_by_its_step_and_the_curve_with_it(live: LiveFigure) -> None:
    start = live.number("mean")
    path = live.root.locator("path.curve").last
    before = path.get_attribute("d")
    live.slider("mean").focus()
    live.page.keyboard.press("ArrowRight")
    live.page.keyboard.press("ArrowRight")
    assert live.number("mean") == pytest.approx(start + 0.1)
    assert path.get_attribute("d") != before
    live.page.keyboard.press("Tab")
    live.page.keyboard.press("End")
    assert live.number("std") == 2.0
    assert f"{live.number('density'):.3g}"[:4] in live.root.locator("[role=status]").inner_text()


def test_the_mouse_moves_the_probe_in_the_picture(live: LiveFigure) -> None:
    picture = live.root.locator("svg[role=img]").bounding_box()
    middle = picture["y"] + picture["height"] / 2
    live.page.mouse.move(picture["x"] + 0.5 * picture["width"], middle)
    live.page.mouse.down()
    live.page.mouse.move(picture["x"] + 0.6 * picture["width"], middle, steps=4)
    live.page.mouse.up()
    setting = setting_of(live)
    assert 0.2 < setting["probe"] < 1.2
    assert live.number("density") == pytest.approx(
        density(setting, [setting["probe"]])[0], rel=1e-6
    )


def test_a_bound_pushes_the_other_and_keeps_the_probe_inside(live: LiveFigure) -> None:
    live.slider("low").focus()
    live.page.keyboard.press("End")
    setting = setting_of(live)
    assert setting["high"] == pytest.approx(setting["low"] + 0.2)
    assert setting["low"] < setting["probe"] < setting["high"]


# ---- Proposals and the penalty -----------------------------------------------------------------


def known_critic(action: torch.Tensor) -> torch.Tensor:
    """Return the chapter's critic in the state 0.5: a hill, and a spike at 1.4."""
    return 3.5 - (action + 0.5) ** 2 + 4.5 * torch.exp(-0.5 * ((action - 1.4) / 0.15) ** 2)


@on("proposals")
@pytest.mark.parametrize(("place", "std", "draw"), [(0, 0.5, 1), (3, 0.5, 2), (7, 1.5, 17)])
def test_proposals_agree_with_the_library(
    live: LiveFigure, place: int, std: float, draw: int
) -> None:
    live.move("count", place)
    live.move("std", std)
    live.move("draw", draw)
    live.move("weight", 2.5)
    proposals = live.data("proposals")
    assert len(proposals) == 3 * live.number("count")
    action = torch.tensor([one["action"] for one in proposals], dtype=torch.float64)
    expected = torch.empty_like(action)
    for k, one in enumerate(proposals):
        mean = {"current": live.number("mean"), "next": live.number("next_mean")}.get(one["source"])
        expected[k] = (
            -math.log(4)
            if mean is None
            else tanh_normal(mean, std, -2, 2).log_prob(action[k : k + 1])
        )
    stated = torch.tensor([one["logDensity"] for one in proposals], dtype=torch.float64)
    torch.testing.assert_close(stated, expected, rtol=1e-6, atol=1e-6)
    q_values = known_critic(action).requires_grad_()
    estimate = log_mean_exp_q(q_values, expected)
    estimate.backward()
    assert live.number("estimate") == pytest.approx(estimate.item(), abs=1e-6)
    shares = [one["share"] for one in proposals]
    assert shares == pytest.approx(q_values.grad.tolist(), abs=1e-6)
    penalty = estimate.item() - known_critic(torch.tensor(-0.5, dtype=torch.float64)).item()
    assert live.number("weighted") == pytest.approx(2.5 * penalty, abs=1e-6)


@on("proposals")
def test_proposals_scatter_less_around_the_integral_when_there_are_more(live: LiveFigure) -> None:
    grid = torch.linspace(-2, 2, 40_001, dtype=torch.float64)
    exact = torch.trapezoid(known_critic(grid).exp(), grid).log().item()
    assert live.number("exact") == pytest.approx(exact, abs=1e-6)
    live.move("std", 1.5)  # a narrower policy has weights without a variance
    spreads = []
    for place in (3, 5, 7):  # 5, 20 and 100 proposals per source
        live.move("count", place)
        spreads.append(live.number("spread"))
    assert spreads[0] / spreads[1] == pytest.approx(2, rel=0.25)
    assert spreads[1] / spreads[2] == pytest.approx(math.sqrt(5), rel=0.25)
    assert live.number("estimate") == pytest.approx(exact, abs=4 * spreads[2])


@on("proposals")
def test_uniform_numbers_of_the_figures_are_uniform_and_its_policies_tanh_normal(
    live: LiveFigure,
) -> None:
    live.move("count", 7)
    uniform, normal = [], []
    for draw in range(1, 21):
        live.move("draw", draw)
        for one in live.data("proposals"):
            if one["source"] == "uniform":
                uniform.append((one["action"] + 2) / 4)
            elif one["source"] == "current":
                u = math.atanh(one["action"] / 2)
                normal.append((u - live.number("mean")) / live.number("std"))
    for values, cdf in ((uniform, "uniform"), (normal, "norm")):
        assert len(values) == 2000
        assert kstest(values, cdf).pvalue > 0.001


# ---- The target as a filter --------------------------------------------------------------------


@on("target-filter")
@pytest.mark.parametrize(("place", "rate"), [(0, 0.001), (2, 0.005), (6, 0.1), (9, 1.0)])
def test_target_follows_as_lerp_does(live: LiveFigure, place: int, rate: float) -> None:
    live.move("rate", place)
    assert live.number("rate") == rate
    target = torch.zeros((), dtype=torch.float64)
    expected = [0.0]
    for value in live.data("source"):
        target.lerp_(torch.tensor(value, dtype=torch.float64), rate)
        expected.append(target.item())
    assert live.data("targets") == pytest.approx(expected, abs=1e-12)
    clean = 1 - (1 - rate) ** live.number("probed")
    assert live.number("clean") == pytest.approx(clean, abs=1e-9)
    if rate < 1:
        assert (1 - rate) ** live.number("halfLife") == pytest.approx(0.5)
    live.move("noise", 0)
    assert live.number("target") == pytest.approx(clean, abs=1e-9)


# ---- The bound on the grid world ---------------------------------------------------------------


@on("tabular-bound")
@pytest.mark.parametrize("push_up", [0, 1])
@pytest.mark.parametrize(
    ("weight", "lean", "discount"), [(0.0, 1.0, 0.8), (0.75, 0.0, 0.5), (2.0, 3.25, 0.95)]
)
def test_bound_agrees_with_the_library(
    live: LiveFigure, weight: float, lean: float, discount: float, push_up: int
) -> None:
    for name, value in (
        ("weight", weight), ("push_up", push_up), ("lean", lean), ("discount", discount)
    ):  # fmt: skip
        live.move(name, value)
    world = tabular.grid_world(discount)
    leaning = np.log(world.behaviour) + lean * tabular.policy_q(world.mdp, world.behaviour)
    policy = tabular.soft_policy(leaning)
    truth = tabular.policy_q(world.mdp, policy)
    up = world.behaviour if push_up else None
    lower = tabular.penalised_q(world.mdp, policy, world.behaviour, weight, policy, up)
    gap = tabular.values(truth, policy) - tabular.values(lower, policy)
    assert live.data("value") == pytest.approx(tabular.values(truth, policy).tolist(), abs=1e-9)
    assert live.data("bound") == pytest.approx(tabular.values(lower, policy).tolist(), abs=1e-9)
    assert live.number("below") == (gap >= -1e-9).sum()
    assert live.number("above") == (lower - truth > 1e-9).sum()


@on("tabular-bound")
def test_the_grid_worlds_own_policy_is_the_one_that_leans_by_one(live: LiveFigure) -> None:
    world = tabular.grid_world()
    own = tabular.values(tabular.policy_q(world.mdp, world.policy), world.policy)
    assert (live.number("lean"), live.number("discount")) == (1, world.mdp.discount)
    assert live.number("start") == pytest.approx(own[world.start], abs=1e-9)


# ---- Q with and without the penalty ------------------------------------------------------------


@on("q-landscape")
@pytest.mark.parametrize(
    ("penalty", "angle", "velocity"), [(0, 14, 3), (1, 14, 3), (0, 0, 0), (1, 24, 4)]
)
def test_landscape_shows_the_stored_values(
    live: LiveFigure, penalty: int, angle: int, velocity: int
) -> None:
    for name, place in (("penalty", penalty), ("angle", angle), ("velocity", velocity)):
        live.move(name, place)
    stored = json.loads((RESULTS / "landscapes.json").read_text(encoding="utf-8"))
    agent, torque = stored[["penalty off", "CQL"][penalty]], stored["torque"]
    known = np.mean(stored["data"][angle][velocity])
    chosen = agent["torque"][angle][velocity]
    for number, level, name in (
        ("promised", "level", "predicted"),
        ("truth", "trueLevel", "true"),
    ):
        q_values = agent[name][angle][velocity]
        at_chosen, at_known = np.interp([chosen, known], torque, q_values)
        assert live.number(number) == pytest.approx(at_chosen - at_known, abs=1e-9)
        assert live.number(level) == pytest.approx(at_chosen, abs=1e-9)
    relative = np.array(agent["predicted"][angle][velocity])
    relative = relative - np.interp(known, torque, relative)
    expected = np.column_stack([torque, relative])
    np.testing.assert_allclose(live.data("promisedCurve"), expected, atol=1e-9)
    assert live.number("radians") == pytest.approx(stored["angle"][angle])
