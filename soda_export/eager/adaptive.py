"""The executable specification of policies: an eager run that decides after each step what the next one does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from soda_runtime.automaton import Automaton, Vote
from soda_runtime.policy import FULL
from torch import Tensor

from ..policy.adaptive import AdaptivePolicy
from ..sampler import advance_state
from .sampling import Sampling

Group = tuple[int, int]
"""Samples that do the same in a step: action and variant."""
RowOf = Callable[[int, Group, Tensor, Tensor | None, Tensor | None, list[int]], NDArray[np.float32]]
"""(step, group, its state [n, b, ...], its prediction or None, its noise or None, its samples) -> the row it takes."""


class AdaptiveResult(NamedTuple):
    """latents: [B, *latent_shape]. decisions: [S, B], indices into the policy's actions, 0 computed."""

    latents: Tensor
    decisions: NDArray[np.int64]

    @property
    def calls(self) -> NDArray[np.int64]:
        """Model calls of each sample: [B]."""
        count: NDArray[np.int64] = (self.decisions == FULL).sum(axis=0)
        return count


def run_policy(
    sampling: Sampling, policy: AdaptivePolicy, vote: Vote = "sample", decisions: NDArray[np.int64] | None = None,
    row_of: RowOf | None = None,
) -> AdaptiveResult:  # fmt: skip
    """Play a policy. decisions: [S, B], to be taken instead of deciding. row_of: asked for each group's row in place of
    the policy's tables, as a fit of them does."""
    batch = len(sampling.noise)
    together = [list(range(batch))] if vote != "sample" else [[i] for i in range(batch)]
    record, state = policy.record(), sampling.begin(policy.own.widened(policy.state_size))
    automata = [Automaton(record, vote, None if decisions is None else decisions[:, who[0]]) for who in together]
    names, taken = list(policy.rows), []
    for step in range(policy.steps):
        taken.append(np.concatenate([[a.action] * len(who) for a, who in zip(automata, together, strict=True)]))
        after = torch.empty_like(state)
        prediction = _predict(sampling, policy, step, state, np.flatnonzero(taken[-1] == FULL).tolist())
        noise = sampling.noise_at(policy.own, step)
        for group, members in _groups(automata, together):
            action, variant = group
            here = state[:, members]
            output = prediction[members] if action == FULL else None
            table = policy.rows[names[action]][step]
            added = None if noise is None else noise[members]
            row = table[variant % len(table)] if row_of is None else row_of(step, group, here, output, added, members)
            after[:, members] = advance_state(
                torch.from_numpy(row).to(state.device), here, here[0] if output is None else output, added,
                policy.own.learned_variance,
            )  # fmt: skip
        for automaton, who in zip(automata, together, strict=True):
            heard = None
            if automaton.needs_signals(step):
                forms = policy.forms(automaton.action, step, automaton.variant)
                heard = signals_of(torch.from_numpy(forms), state[:, who], after[:, who]).tolist()
            automaton.observe(step, heard)
        state = after
    return AdaptiveResult(state[0], np.array(taken))


def signals_of(forms: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """[q, 2, 2 n + 1] and the states [n, B, ...] around a step -> the means of the products of two forms: [B, q]."""
    both = torch.cat([before, after]).flatten(2)  # [2 n, B, M]
    forms = forms.to(both.device)
    values = torch.einsum("qfk,kbm->qfbm", forms[..., :-1], both) + forms[..., -1][..., None, None]
    return (values[:, 0] * values[:, 1]).mean(dim=-1).T


def _predict(sampling: Sampling, policy: AdaptivePolicy, step: int, state: Tensor, computed: list[int]) -> Tensor:
    """The guided predictions of the samples that compute; those of the others are not looked at."""
    made = torch.zeros_like(state[0])
    if computed:
        channels = state.shape[2]
        part = sampling.of(computed).predict(policy.own, step, state[: policy.own.state_size, computed])
        made[computed] = part[:, :channels]
    return made


def _groups(automata: list[Automaton], together: list[list[int]]) -> Iterator[tuple[Group, list[int]]]:
    found: dict[Group, list[int]] = {}
    for automaton, who in zip(automata, together, strict=True):
        found.setdefault((automaton.action, automaton.variant), []).extend(who)
    return iter(found.items())
