"""Plans in eager torch, benchmarks/peers: hooks on the diffusers model do what the reference interpreter does."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from peers import eager, reference_peer, smoothcache_hooks
from peers.case import Case
from peers.models import Requests, open_model
from peers.player import PeerError
from peers.systems import System

from soda_export.models.decisions import REUSE
from soda_export.plan.plan import plan_text
from soda_export.plan.schedule import Schedule, cached_work

STEPS = 6


def with_plan(path: Path | str) -> System:
    return System("plan", "", "fp32", "", "", {"plan": str(path)})


@pytest.fixture(scope="module", params=["tiny_model", "tiny_pixart"])
def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Case, Path, Path]:
    """A case of one request, a plan that reuses sites, and one that renews tokens, too."""
    place = tmp_path_factory.mktemp("peers")
    bench, case = open_model(str(request.getfixturevalue(request.param)), 0, Requests(1, 1, 1, STEPS), place)
    spec, files = bench.loaded.spec, (place / "reusing.json", place / "renewing.json")
    work = Schedule.full(spec, STEPS).work
    work[1::2] = cached_work(spec)
    work[2, list(spec.kinds["attn"][1:])] = REUSE
    files[0].write_bytes(plan_text(bench.plan_of(Schedule(work.copy()), "test")))
    work[3, list(spec.kinds["ff"])] = 4
    files[1].write_bytes(plan_text(bench.plan_of(Schedule(work), "test")))
    return case, *files


def test_hooks_reuse_what_the_reference_reuses(opened: tuple[Case, Path, Path]) -> None:
    case, reusing, _ = opened
    full = eager.open_player(case, with_plan(""), {}).play(0)
    everything = reference_peer.open_player(case, with_plan(""), {}).play(0)
    hooked, reference = (
        peer.open_player(case, with_plan(reusing), {}).play(0) for peer in (smoothcache_hooks, reference_peer)
    )
    size = np.abs(full).max()
    assert np.abs(everything - full).max() < 1e-5 * size
    assert np.abs(hooked - reference).max() < 1e-5 * size
    assert np.abs(hooked - full).max() > 1e-4 * size


def test_hooks_refuse_a_plan_that_renews_tokens(opened: tuple[Case, Path, Path]) -> None:
    case, _, renewing = opened
    with pytest.raises(PeerError, match="does more than to compute or reuse"):
        smoothcache_hooks.open_player(case, with_plan(renewing), {})
