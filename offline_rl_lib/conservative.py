"""The conservative term of CQL(H): a sampled log-integral-exp of Q, minus Q of the data."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def log_mean_exp_q(
    q_values: Tensor,
    log_densities: Tensor,
    temperature: float = 1.0,
    dim: int = -1,
) -> Tensor:
    r"""Estimate ``T * log ∫ exp(Q(a) / T) da`` from sampled actions.

    Each action ``a_i`` was drawn from a proposal with density ``mu(a_i)`` on the action box. The
    average of ``exp(Q(a_i) / T) / mu(a_i)`` estimates the integral without bias; its logarithm is
    taken in a stable way. Samples of several proposals may be mixed along ``dim``, as long as
    each brings the log-density of the proposal that it came from (Kumar et al. 2020, appendix F).

    Args:
        q_values: Q of the sampled actions, proposals along ``dim``.
        log_densities: ``log mu(a_i)``, broadcastable to ``q_values``, per unit of action volume.
        temperature: ``T > 0``, in units of Q. The density is *not* divided by it.
        dim: the proposals' axis, of length N.

    Returns:
        The estimate, with ``dim`` removed, in units of Q.

    Raises:
        ValueError: the temperature is not positive, there are no proposals, or the shapes do not
            broadcast.
    """
    if not temperature > 0:
        raise ValueError(f"The temperature must be positive; got {temperature}.")
    if q_values.shape[dim] == 0:
        raise ValueError("At least one proposal is needed; the proposals' axis has length 0.")
    try:
        exponents = q_values / temperature - log_densities
    except RuntimeError as error:
        raise ValueError(
            f"log_densities of shape {tuple(log_densities.shape)} do not broadcast to q_values "
            f"of shape {tuple(q_values.shape)}."
        ) from error
    if exponents.shape != q_values.shape:
        raise ValueError(
            f"log_densities of shape {tuple(log_densities.shape)} would enlarge q_values of "
            f"shape {tuple(q_values.shape)} to {tuple(exponents.shape)}; a missing or surplus "
            "axis does that silently."
        )
    log_sum = torch.logsumexp(exponents, dim=dim)
    return temperature * (log_sum - math.log(q_values.shape[dim]))


def cql_penalty(
    proposal_q: Tensor,
    proposal_log_density: Tensor,
    data_q: Tensor,
    temperature: float = 1.0,
) -> Tensor:
    """Return the conservative term: soft maximum of Q over the box, minus Q of the data.

    This is the bracket of CQL(H) (Kumar et al. 2020, equation 4) for continuous actions, averaged
    over the batch. Multiply it by the penalty weight and add it to the mean squared TD error.

    Args:
        proposal_q: Q of the proposals of each state, shape ``(..., B, M)``. Leading axes, such as
            one for twin critics, are kept.
        proposal_log_density: log-density of each proposal, broadcastable to ``proposal_q``.
        data_q: Q of the action in the data, shape ``(..., B)``.
        temperature: temperature of the soft maximum, in units of Q.

    Returns:
        Shape ``(...)``: the mean over the batch, in units of Q.

    Raises:
        ValueError: ``data_q`` does not have the shape of ``proposal_q`` without its last axis.
    """
    if data_q.shape != proposal_q.shape[:-1]:
        raise ValueError(
            f"data_q must have the shape of proposal_q without its last axis, "
            f"{tuple(proposal_q.shape[:-1])}; got {tuple(data_q.shape)}."
        )
    soft_maximum = log_mean_exp_q(proposal_q, proposal_log_density, temperature)
    return (soft_maximum - data_q).mean(dim=-1)
