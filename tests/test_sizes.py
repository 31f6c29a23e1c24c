"""Several sizes in one bundle: one weights file, shared engines, and the results of bundles of one size."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from soda_runtime import Bundle, RequestError, Session
from soda_runtime.checks import open_sizes, verify_hashes
from soda_runtime.errors import EngineError
from soda_runtime.policy import FULL
from soda_runtime.signature import program_files

from soda_export.errors import PlanError, UsageError
from soda_export.eval.evaluate import Evaluator
from soda_export.eval.options import EvalOptions
from soda_export.models.decisions import COMPUTE
from soda_export.models.load import ModelRequest, load_model
from soda_export.models.sizes import made_size
from soda_export.options import SamplerOptions
from soda_export.plan.rescale import rescale_plan
from soda_export.plan.schedule import Schedule
from soda_export.workbench.assemble import assemble_bundle
from soda_export.workbench.pipeline import Workbench
from soda_export.workbench.stages import StageStore
from tests.sizes_toy import NAMES, SIZES, SizesToy

PROMPTS = {"prompt": ["a red circle", "a blue square"], "negative_prompt": "blue", "seed": 5}


@pytest.fixture
def toy(sizes_toy: SizesToy) -> SizesToy:
    return sizes_toy


def test_every_size_gives_what_a_bundle_of_that_size_alone_gives(toy: SizesToy) -> None:
    with Bundle.open(toy.bundle) as bundle, bundle.session() as session:
        assert bundle.sizes == SIZES
        for number, size in [*enumerate(SIZES), (0, SIZES[0])]:  # and back again
            with Session.open(toy.single(number)) as single:
                for accelerated in (True, False):
                    expected = single.generate(**PROMPTS, accelerated=accelerated)
                    found = session.generate(**PROMPTS, accelerated=accelerated, size=size)
                    np.testing.assert_array_equal(found, expected)
                    np.testing.assert_array_equal(session.images(), single.images())
                    assert session.images().shape == (2, *size, 3)
        np.testing.assert_array_equal(session.generate(**PROMPTS), bundle.at(SIZES[0]).session().generate(**PROMPTS))
        assert bundle.at(SIZES[1]).session().generate(**PROMPTS).shape[2:] == (8, 12)


def test_weights_are_there_once_and_engines_of_equal_content_are_shared(toy: SizesToy) -> None:
    manifest = verify_hashes(toy.bundle)
    sizes = open_sizes(toy.bundle, manifest)
    assert {sized.weights for sized in sizes.values()} == {manifest.weights}
    files = [{file for file, _ in program_files(sized)} for sized in sizes.values()]
    shared = set.intersection(*files)
    assert {"text-encoder.onnx", "request.onnx", "steps.onnx"} == shared
    own = [names - shared for names in files]
    assert not own[0] & own[1]
    assert {sized.tables for sized in sizes.values()} == {"tables.safetensors"}
    hashes = [hashlib.sha256((toy.bundle / file).read_bytes()).hexdigest() for file in set.union(*files)]
    assert len(set(hashes)) == len(hashes)  # nothing lies there twice
    single = verify_hashes(toy.single(0))
    more = manifest.files["weights.safetensors"].bytes - single.files["weights.safetensors"].bytes
    assert 0 < more < 0.1 * single.files["weights.safetensors"].bytes  # positions of the other sizes


def test_engines_that_sizes_share_are_opened_once(toy: SizesToy, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    bundle = Bundle.open(toy.bundle)
    own = bundle.backend.open_engine

    def count(path: Path, *rest: object) -> object:
        opened.append(path.name)
        return own(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(bundle.backend, "open_engine", count)
    session = bundle.session()
    session.generate(**PROMPTS)
    assert not any("16x24" in name for name in opened)  # until that size is asked for
    session.generate(**PROMPTS, size=(16, 24))
    assert opened.count("text-encoder.onnx") == opened.count("request.onnx") == opened.count("steps.onnx") == 1
    bundle.open_engines()
    sizes = open_sizes(toy.bundle, bundle.manifest)
    assert set(opened) == {file for sized in sizes.values() for file, _ in program_files(sized)}
    assert len(opened) == len(set(opened))


def test_batches_are_free_at_every_size(toy: SizesToy) -> None:
    session = Session.open(toy.bundle)
    for size in SIZES[:2]:
        whole = session.generate(prompt=["a red circle"] * 3, seed=5, size=size)
        for count in (1, 2):
            few = session.generate(prompt=["a red circle"] * count, seed=5, size=size)
            np.testing.assert_allclose(few, whole[:count], rtol=1e-4, atol=1e-4)


def test_a_session_holds_the_buffers_of_one_size(toy: SizesToy) -> None:
    session = Session.open(toy.bundle)
    arenas = []
    for size in SIZES:
        session.generate(**PROMPTS, size=size)
        arenas.append(session.playback.arena.nbytes)
        assert session.bundle.manifest.arena.bytes * 2 == arenas[-1]
    assert len(set(arenas)) > 1


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((8, 8), "size 8x8: this bundle has 16x16, 16x24, 8x16"),
        ((16,), "give height and width in pixels"),
        ("16x16", "give height and width in pixels"),
        ((16.0, 16.0), "give height and width in pixels"),
    ],
)
def test_a_size_that_is_not_there_is_refused_with_the_list(toy: SizesToy, size: object, message: str) -> None:
    session = Session.open(toy.bundle, backend="null")
    session.start(**PROMPTS, size=(16, 24))
    with pytest.raises(RequestError, match=message):
        session.start(**PROMPTS, size=size)  # type: ignore[arg-type]
    session.step(0)  # nothing has changed


def test_a_bundle_of_one_size_has_that_size(toy: SizesToy) -> None:
    session = Session.open(toy.single(1), backend="null")
    assert session.bundle.sizes == ((16, 24),)
    session.generate(**PROMPTS, size=(16, 24))
    with pytest.raises(RequestError, match="this bundle has 16x24"):
        session.generate(**PROMPTS, size=(16, 16))


def test_plans_keep_their_share_of_the_tokens(toy: SizesToy) -> None:
    (first, plan), (wide, carried), _ = toy.sized
    spec = wide.loaded.spec
    before, after = plan.schedule.work, carried.schedule.work
    renewed = (before > 0) & (before < COMPUTE)
    tokens = np.array([[site.tokens or 1 for site in each.loaded.spec.sites] for each in (first, wide)])
    assert (after[renewed] == np.ceil(before * tokens[1] / tokens[0])[renewed]).all()
    assert (after[~renewed] == before[~renewed]).all()
    assert carried.schedule.flops_ratio(spec, 2) == pytest.approx(
        plan.schedule.flops_ratio(first.loaded.spec, 2), rel=0.1
    )
    back = rescale_plan(carried, first.loaded.spec, [spec.hash])
    assert (back.schedule.work == before).all()
    with pytest.raises(PlanError, match="not for a size of"):
        rescale_plan(carried, first.loaded.spec, ["another model's"])


def test_the_size_that_a_model_has_anyway_is_no_other_model(toy: SizesToy) -> None:
    folder = str(toy.root / "tiny")
    own, named, other = (load_model(ModelRequest(folder, size=size)) for size in ((), ("16x16",), ("8x16",)))
    assert own.spec == named.spec
    assert other.spec.hash != own.spec.hash == other.own_hash
    assert (own.size, other.size) == ((16, 16), (8, 16))


def test_sizes_that_stand_twice_and_engines_of_another_size_are_refused(toy: SizesToy, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--size 16x16: is given twice"):
        assemble_bundle([toy.sized[0], toy.sized[0]], "ort", tmp_path / "twice")
    bundle = Bundle.open(toy.bundle)
    bundle.engine(0)
    with pytest.raises(EngineError):  # it is open already, for another signature
        bundle.at(SIZES[1])._open(bundle.manifest.programs[0].file, "weights.safetensors", _signature(bundle))


def _signature(bundle: Bundle) -> object:
    from soda_runtime.signature import step_signature

    return step_signature(bundle.at(SIZES[1]).manifest, 0)


def test_sizes_of_packed_latents_are_those_of_the_image() -> None:
    from soda_export.models.family import Size, Sizes

    vae = {"vae": {"block_out_channels": [1, 2]}}
    assert made_size(Sizes({}, vae, 0, Size(8, 12), (6, 16))) == (8, 12)
    assert made_size(Sizes({}, vae, 0, Size(), (16, 16))) == (16, 16)


def test_each_size_follows_its_own_policy_as_a_bundle_of_that_size_alone(toy: SizesToy, tmp_path: Path) -> None:
    folder = toy.deciding
    manifest = verify_hashes(folder)
    own = {size: {n for n in sized.files if n.startswith("policy") and n.endswith(".json")}
           for size, sized in open_sizes(folder, manifest).items()}  # fmt: skip
    assert own[SIZES[1]] == {"policy-16x24.json"}
    session, calls = Session.open(folder), []
    for number, size in [*enumerate(SIZES[:2]), (0, SIZES[0])]:  # and back again
        found = session.generate(**PROMPTS, size=size)
        decisions = session.decisions
        bench, plan = toy.sized[number]
        single = Session.open(
            bench.build(plan, "ort", tmp_path / f"single-{number}", policy=toy.policy(number)).out
        )
        np.testing.assert_array_equal(found, single.generate(**PROMPTS))
        np.testing.assert_array_equal(decisions, single.decisions)
        calls.append((decisions == FULL).sum())
        frozen = session.generate(**PROMPTS, size=size, policy="frozen")
        np.testing.assert_array_equal(frozen, single.generate(**PROMPTS, policy="frozen"))
        assert not np.array_equal(found, frozen)
    assert calls[0] > calls[1]  # the thresholds are not the same
    bundle = Bundle.open(folder, backend="null")
    assert all(bundle.at(size).policy is not None for size in SIZES[:2])


def evaluator(store: Path, **options: Any) -> Evaluator:
    return Evaluator(EvalOptions(seeds="5:7", batch=2, **options), StageStore(store), lambda *_: None)


def test_eval_has_a_row_for_each_size_or_for_the_one_that_is_asked_for(toy: SizesToy, tmp_path: Path) -> None:
    rows = evaluator(tmp_path).evaluate([toy.bundle])
    assert [row.target.rpartition(" ")[2] for row in rows] == list(NAMES)
    (one,) = evaluator(tmp_path, size="16x24").evaluate([toy.bundle])
    assert one.scores == rows[1].scores
    assert one.scores.rmse.mean > 0
    (single,) = evaluator(tmp_path).evaluate([toy.single(1)])
    assert single.scores == one.scores
    with pytest.raises(RequestError, match="size 8x8: this bundle has 16x16, 16x24, 8x16"):
        evaluator(tmp_path, size="8x8").evaluate([toy.bundle])


@pytest.mark.long
def test_shapes_at_three_sizes_gives_what_three_bundles_give(tmp_path: Path) -> None:
    sizes, store = ((64, 64), (48, 64), (64, 96)), StageStore(tmp_path / "work")
    benches = [
        Workbench(
            ModelRequest("shapes", size=("{}x{}".format(*size),)), SamplerOptions("dpm-solver++", 20, 0.0, 7.0), store,
            lambda *_: None,
        )
        for size in sizes
    ]  # fmt: skip
    first = benches[0]
    plan = first.plan_of(Schedule.at_anchors(first.loaded.spec, 20, tuple(range(0, 20, 3))), "by hand")
    sized = [(bench, bench.carried(plan, first)) for bench in benches]
    session = Session.open(assemble_bundle(sized, "ort", tmp_path / "all").out)
    manifest = session.bundle.manifest
    for (bench, each), size in zip(sized, sizes, strict=True):
        single = Session.open(bench.build(each, "ort", tmp_path / "{}x{}".format(*size)).out)
        request = {"prompt": "a small red circle above a blue square", "seed": 1}
        np.testing.assert_array_equal(session.generate(**request, size=size), single.generate(**request))
        np.testing.assert_array_equal(session.images(), single.images())
        own = single.bundle.manifest.files
        assert manifest.files["decoder.safetensors"] == own["decoder.safetensors"]
        assert manifest.files["text-encoder.safetensors"] == own["text-encoder.safetensors"]
        assert manifest.files["weights.safetensors"].bytes < 1.05 * own["weights.safetensors"].bytes
