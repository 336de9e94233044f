"""What a Pendulum dataset covers: which states it visits, and which torques it tries there."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.spatial import KDTree

from offline_rl_lib.data import OfflineDataset
from offline_rl_lib.pendulum import MAX_SPEED, state_of

FloatArray = npt.NDArray[np.float64]


def visits(dataset: OfflineDataset, angles: int = 24, velocities: int = 16) -> FloatArray:
    """Count the transitions that start in each cell of a grid of states.

    Args:
        dataset: of Pendulum.
        angles: cells around the circle.
        velocities: cells from -8 to 8 rad/s.

    Returns:
        (angles, velocities), from the angle -pi and the velocity -8 on.
    """
    angle, velocity = state_of(dataset.observation.numpy())
    box = [[-math.pi, math.pi], [-MAX_SPEED, MAX_SPEED]]
    counts, _, _ = np.histogram2d(
        angle.clamp(-math.pi, math.pi).numpy(),
        velocity.numpy(),
        bins=(angles, velocities),
        range=box,
    )
    return counts


def state_coverage(dataset: OfflineDataset, angles: int = 24, velocities: int = 16) -> float:
    """Share of the cells of a grid of states that the data visit at least once, 0 to 1."""
    return float((visits(dataset, angles, velocities) > 0).mean())


def torque_spread(dataset: OfflineDataset, neighbours: int = 20) -> float:
    """How different the torques are that the data try near one state, in N m.

    States are compared as observations, each component in units of its standard deviation in the
    data. The spread at a transition is the standard deviation of the torques of the nearest
    transitions, itself included. Uniform torques have 4 / sqrt(12) = 1.15, a policy without noise
    has nearly 0.

    Args:
        dataset: with one action dimension.
        neighbours: how many transitions count as near.

    Returns:
        The mean spread over all transitions.
    """
    observation = dataset.observation.double().numpy()
    points = observation / observation.std(axis=0)
    _, nearest = KDTree(points).query(points, neighbours)
    torque = dataset.action[:, 0].double().numpy()
    return float(torque[nearest].std(axis=1).mean())
