"""A run as a graph: which operations vanish with which cuts, and what an operation costs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from soda_export.models.flow import Flow, Operation, live_masks

Graph = tuple[list[Operation], dict[int, int]]


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Up to 12 operations, each reading earlier ones, and up to 4 cuts of one or two of them."""
    count = draw(st.integers(1, 12))
    parents = [tuple(draw(st.sets(st.integers(0, i - 1), max_size=3))) if i else () for i in range(count)]
    cuts = draw(st.dictionaries(st.integers(0, count - 1), st.integers(0, 3), max_size=5))
    return [Operation(reads, 1, False, True, False) for reads in parents], cuts


def needed(operations: list[Operation], cut: set[int]) -> set[int]:
    """By search: what the last operation needs where the results in `cut` are given."""
    found, open_ = set(), [len(operations) - 1]
    while open_:
        number = open_.pop()
        if number not in found:
            found.add(number)
            open_.extend(p for p in operations[number].parents if number not in cut)
    return found


@given(graphs())
def test_masks_say_what_is_needed_under_each_cut(graph: Graph) -> None:
    """A given result's own node stays, as the name of the value; what it read goes."""
    operations, cuts = graph
    masks = live_masks(operations, [len(operations) - 1], cuts, 4)
    for k in range(5):
        expected = needed(operations, {number for number, cut in cuts.items() if cut == k})
        assert {number for number, mask in enumerate(masks) if mask >> k & 1} == expected


A, B, C = torch.ones(2, 3, 4), torch.ones(2, 4, 5), torch.ones(6, 4)
IMAGE, KERNEL = torch.ones(2, 3, 8, 8), torch.ones(5, 3, 3, 3)
QUERY, KEY = torch.ones(2, 4, 6, 8), torch.ones(2, 4, 10, 8)


@pytest.mark.parametrize(
    ("operation", "flops"),
    [
        (lambda: A @ B, 2 * 2 * 3 * 4 * 5),
        (lambda: F.linear(A, C), 2 * 2 * 3 * 4 * 6),
        (lambda: F.linear(A, C, torch.ones(6)), 2 * 2 * 3 * 4 * 6),
        (lambda: torch.baddbmm(torch.ones(2, 3, 5), A, B), 2 * 2 * 3 * 4 * 5),
        (lambda: F.conv2d(IMAGE, KERNEL, padding=1, stride=2), 2 * 2 * 16 * 5 * 27),
        (lambda: F.conv2d(torch.ones(1, 6, 4, 4), torch.ones(6, 3, 1, 1), groups=2), 2 * 16 * 6 * 3),
        (lambda: F.conv_transpose2d(torch.ones(1, 5, 4, 4), KERNEL, stride=2), 2 * 16 * 5 * 27),
        (lambda: F.scaled_dot_product_attention(QUERY, KEY, KEY), 2 * 4 * 6 * 10 * (4 * 8 + 5)),
        (lambda: F.scaled_dot_product_attention(QUERY, KEY, KEY, torch.zeros(6, 10)), 2 * 4 * 6 * 10 * (4 * 8 + 5)),
        (lambda: (QUERY @ KEY.mT).softmax(-1) @ KEY, 2 * 4 * 6 * 10 * (4 * 8 + 5)),
        (lambda: F.gelu(A), 6 * 24),
        (lambda: F.gelu(A, approximate="tanh"), 6 * 24),
        (lambda: F.silu(A) * 2 + F.layer_norm(A, (4,)), 0),
    ],
)
@torch.no_grad()
def test_an_operation_costs_what_the_papers_count(operation: Callable[[], Tensor], flops: int) -> None:
    flow = Flow()
    with flow, flow.counting():
        operation()
    assert sum(made.flops for made in flow.operations) == flops


@torch.no_grad()
def test_the_latents_reach_what_is_computed_from_them() -> None:
    flow, latents, text = Flow(), torch.ones(2, 4), torch.ones(3, 4)
    with flow:
        flow.taint(latents)
        keys = text @ C.T
        scores = latents @ C.T @ keys.T
        text.mul_(2)
        latents.add_(1)
        again = latents * 2
    tainted = [flow.operations[flow.producer(tensor)].tainted for tensor in (keys, scores, text, again)]
    assert tainted == [False, True, False, True]
