"""Both runtimes play the same bundles with the same seeds to the same results, on each backend that C++ has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from soda_runtime import Bundle, Embeds, EngineError, Noise, RequestError
from soda_runtime.philox import latent_noise, normal
from soda_runtime.request import example_request

from soda_export.options import BundleOptions
from tests.conftest import OpenBench
from tests.runtime.bundles import (
    GOLDEN,
    GOLDEN_V3,
    GOLDEN_V3_TEXT,
    GOLDENS,
    distance,
    edit_manifest,
    golden_request,
    golden_results,
    put,
    relative,
)
from tests.tiny import make_plan, mixed_kept

from .fields import embeds_fields, example_embeds, fields_of
from .library import CancelledError, CppBundle, CppSession, Library, has_backend

BACKENDS = ["ort", "openvino"]
LITERALS = {
    (0, 0, 0): "3f7dbb33 bf6cb6b0 bf1e1b9f bef6d1b2 be1d5357 3e392a6d 3f54ec98 3e4a2da3",
    (1234, 1, 1): "bff332d7 bea190ea bf0fd3c8 bf4feab8 3f123ba3 bdd004aa bfaaa4af 3f8860fe",
    (2**64 - 1, 7, 3): "bf37c2eb be4a09aa 3f4609f1 bdda6058 3f217fbd bf5d2837 3e92a341 3de05b94",
}
MAX_DIFFERENCE = 1e-5

OpenCpp = Callable[[Path], CppBundle]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, library: Library) -> str:
    """A backend that was built and whose engine library loads."""
    name = str(request.param)
    if not has_backend(name):
        pytest.skip(f"the backend {name} has not been built; `make cpp` says why")
    try:
        library.open(GOLDEN_V3, backend=name, threads=1)
    except EngineError as error:
        pytest.skip(str(error))
    return name


def golden_in_full(folder: Path) -> dict[str, Any]:
    if "text" in folder.name:
        pytest.importorskip("tokenizers")
    return golden_request(folder)


@pytest.mark.parametrize("key", LITERALS)
def test_noise_is_the_literal_vectors(library: Library, key: tuple[int, int, int]) -> None:
    words = library.noise(*key, 8).view(np.uint32)
    assert " ".join(f"{word:08x}" for word in words) == LITERALS[key]


def test_noise_is_bit_equal(library: Library) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        seed, stream, row = (
            int(rng.integers(2**64, dtype=np.uint64)),
            int(rng.integers(10001)),
            int(rng.integers(65536)),
        )
        count = int(rng.integers(1, 20000))
        expected = normal(seed, stream, row, count)
        assert np.array_equal(library.noise(seed, stream, row, count).view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("folder", GOLDENS, ids=lambda folder: folder.name)
def test_golden_bundles_play_to_their_stored_results(library: Library, backend: str, folder: Path) -> None:
    request, expected = golden_in_full(folder), golden_results(folder)
    session = library.open(folder, backend=backend, threads=1).session()
    latents = session.generate(**fields_of(request, Bundle.open(folder, backend="null")))
    assert relative(latents, expected["latents"]) <= 1e-3
    if "images" in expected:
        assert distance(session.images(), expected["images"]) <= 1e-3


@pytest.mark.parametrize("accelerated", [True, False])
@pytest.mark.parametrize("folder", GOLDENS, ids=lambda folder: folder.name)
def test_golden_bundles_play_as_in_python(library: Library, folder: Path, accelerated: bool) -> None:
    if not has_backend("ort"):
        pytest.skip("the backend ort has not been built; `make cpp` says why")
    request = golden_in_full(folder) | {"accelerated": accelerated}
    bundle = Bundle.open(folder, threads=1)
    python, cpp = bundle.session(), library.open(folder, threads=1).session()
    for change in ({}, {"seed": 2**64 - 1}, {"seed": 5, "guidance": 3.25}):
        request |= change
        expected = python.generate(**request)
        assert relative(cpp.generate(**fields_of(request, bundle)), expected) <= MAX_DIFFERENCE
        assert distance(cpp.images(), python.images()) <= MAX_DIFFERENCE


def test_freshly_built_bundles_play_as_in_python(library: Library, backend: str, fresh_bundle: Path) -> None:
    bundle = Bundle.open(fresh_bundle, threads=1)
    python, cpp = bundle.session(), library.open(fresh_bundle, backend=backend, threads=1).session()
    bar = MAX_DIFFERENCE if backend == "ort" else 1e-3  # another library rounds otherwise
    for samples, accelerated in ((1, True), (3, True), (2, False)):
        request = {**example_request(bundle, samples), "seed": 7, "accelerated": accelerated}
        expected = python.generate(**request)
        assert distance(cpp.generate(**fields_of(request, bundle)), expected) <= bar
        assert distance(cpp.images(), python.images()) <= max(bar, 1e-5)


def test_int8_bundles_play_as_in_python(
    library: Library, backend: str, open_bench: OpenBench, tmp_path: Path
) -> None:
    """With steps of every kind. Both runtimes play the same engine library, so that they quantize alike."""
    bench = open_bench()
    plan = make_plan(bench.loaded.spec, mixed_kept())
    path = bench.build(plan, backend, tmp_path / "int8", BundleOptions(precision="int8")).out
    bundle = Bundle.open(path, threads=1)
    python, cpp = bundle.session(), library.open(path, threads=1).session()
    for accelerated in (True, False):
        request = {**example_request(bundle, 2), "seed": 7, "accelerated": accelerated}
        expected = python.generate(**request)
        assert relative(cpp.generate(**fields_of(request, bundle)), expected) <= MAX_DIFFERENCE


def test_prompts_of_a_freshly_built_bundle_play_as_in_python(
    library: Library, backend: str, fresh_bundle: Path
) -> None:
    bundle = Bundle.open(fresh_bundle, threads=1)
    if not bundle.manifest.tokenizers:
        pytest.skip("it takes no prompts")
    request = {"prompt": ["a small red circle above a blue square", "a green triangle"], "seed": 3}
    python, cpp = bundle.session(), library.open(fresh_bundle, backend=backend, threads=1).session()
    expected = python.generate(**request)  # type: ignore[arg-type]
    assert distance(cpp.generate(**fields_of(request, bundle)), expected) <= (
        MAX_DIFFERENCE if backend == "ort" else 1e-3
    )
    bytes_of_python = np.floor(np.clip(python.images(), 0, 1) * np.float32(255) + np.float32(0.5))
    assert np.abs(cpp.rgb().astype(np.float32) - bytes_of_python).max() <= 1


def test_noise_of_the_caller_is_played(library: Library) -> None:
    bundle = Bundle.open(GOLDEN_V3, backend="null")
    steps, shape = bundle.manifest.sampler.steps, bundle.manifest.model.latent_shape
    initial = latent_noise(9, 0, 2, shape)
    noise = np.stack([latent_noise(9, 1 + i, 2, shape) for i in range(steps)])
    name = "ort" if has_backend("ort") else "null"
    session = library.open(GOLDEN_V3, backend=name, threads=1).session()
    expected = session.generate(labels=[3, 7], seed=9)
    assert np.array_equal(session.generate(labels=[3, 7], noise_initial=initial, noise_steps=noise), expected)
    python = Bundle.open(GOLDEN_V3, backend=name, threads=1).session()
    assert relative(python.generate([3, 7], noise=Noise(initial, noise)), expected) <= MAX_DIFFERENCE


def test_embeddings_of_a_file_play_as_those_in_memory(library: Library, tmp_path: Path) -> None:
    bundle = Bundle.open(GOLDEN_V3_TEXT, backend="null")
    embeds = example_embeds(bundle, 2)
    name = "ort" if has_backend("ort") else "null"
    session = library.open(GOLDEN_V3_TEXT, backend=name, threads=1).session()
    expected = session.generate(**embeds_fields(embeds), seed=3)
    path, tensors = tmp_path / "embeds.safetensors", {k: v for k, v in embeds._asdict().items() if v is not None}
    for kind in (np.int64, np.int32, np.uint8, np.bool_):
        save_file({key: value.astype(kind) if "mask" in key else value for key, value in tensors.items()}, path)
        assert np.array_equal(session.generate(embeds_file=str(path).encode(), seed=3), expected)
    save_file({"prompt_embeds": embeds.prompt_embeds}, path)
    with pytest.raises(RequestError, match="has no tensor 'prompt_attention_mask'"):
        session.start(embeds_file=str(path).encode())
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(RequestError, match="longer than the file; save the embeddings again"):
        session.start(embeds_file=str(path).encode())
    save_file(tensors, tmp_path / "elsewhere.safetensors")
    path.unlink()
    path.symlink_to("elsewhere.safetensors")  # as download caches have them
    assert np.array_equal(session.generate(embeds_file=str(path).encode(), seed=3), expected)
    with pytest.raises(RequestError, match="not a regular file; save"):
        session.start(embeds_file=str(tmp_path).encode())


def test_batches_change_and_nothing_is_carried(library: Library, backend: str) -> None:
    session = library.open(GOLDEN, backend=backend, threads=1).session()
    first = session.generate(labels=[3, 7], seed=3)
    for labels in ([1], [5, 6, 7], [2, 2]):
        session.generate(labels=labels, seed=4)
    session.start(labels=[1, 2], seed=4)
    session.step(0)
    assert np.array_equal(session.generate(labels=[3, 7], seed=3), first)
    alone = session.generate(labels=[7], seed=3)
    assert distance(session.generate(labels=[7, 3], seed=3)[:1], alone) <= 1e-4


def test_windows_of_steps_give_the_same_latents(library: Library, tmp_path: Path) -> None:
    """A batch whose tensors of all steps do not fit one window, against the same samples in small batches."""
    session = library.open(GOLDEN, backend="null").session()
    samples = 1 + (64 << 20) // (4 * 20 * 16 * 2 * 3)
    assert session.generate(labels=[3], samples=samples, seed=1).shape == (samples, 1, 8, 8)
    if has_backend("ort"):
        session = library.open(GOLDEN, threads=1).session()
        whole = session.generate(labels=[3], samples=samples, seed=1)
        assert distance(whole[:2], session.generate(labels=[3], samples=2, seed=1)) <= 1e-4


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "no labels": ({}, {}),
    "a label too large": ({"labels": [10]}, {"labels": [10]}),
    "a negative label": ({"labels": [-1]}, {"labels": [-1]}),
    "labels and another batch": ({"labels": [1, 2], "samples": 3}, {"labels": [1, 2], "batch": 3}),
    "a negative batch": ({"labels": [1], "samples": -1}, {"labels": [1], "batch": -1}),
    "a batch too large": ({"labels": [1], "samples": 65537}, {"labels": [1], "batch": 65537}),
    "guidance that is no number": (
        {"labels": [1], "has_guidance": 1, "guidance": float("nan")}, {"labels": [1], "guidance": float("nan")}
    ),
    "guidance beyond float32": (
        {"labels": [1], "has_guidance": 1, "guidance": 1e39}, {"labels": [1], "guidance": 1e39}
    ),
    "noise without that of the steps": (
        {"labels": [1], "noise_initial": np.zeros((1, 1, 8, 8))},
        {"labels": [1], "noise": Noise(np.zeros((1, 1, 8, 8)))},
    ),
    "noise that is not finite": (
        {"labels": [1], "noise_initial": np.full((1, 1, 8, 8), np.nan), "noise_steps": np.zeros((10, 1, 1, 8, 8))},
        {"labels": [1], "noise": Noise(np.full((1, 1, 8, 8), np.nan), np.zeros((10, 1, 1, 8, 8)))},
    ),
    "embeddings": (
        {"embeds": np.zeros(4), "token_mask": [1], "num_prompts": 1},
        {"embeds": Embeds(np.zeros((1, 1, 4)), np.ones((1, 1)))},
    ),
}  # fmt: skip


@pytest.mark.parametrize("fields", REFUSED.values(), ids=REFUSED.keys())
def test_requests_that_do_not_fit_are_refused_by_both(
    library: Library, fields: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    with pytest.raises(RequestError):
        library.open(GOLDEN_V3, backend="null").session().start(**fields[0])
    with pytest.raises(RequestError):
        Bundle.open(GOLDEN_V3, backend="null").session().start(**fields[1])


@pytest.mark.parametrize(
    "change",
    [
        {"embeds": np.full((1, 8, 16), np.inf)}, {"token_mask": [2] * 8}, {"negative_token_mask": [-1] * 8},
        {"num_negatives": 0}, {"num_negatives": 3}, {"labels": [1]}, {"token_ids": [[0] * 8]},
        {"negative_embeds": None},
        {"num_prompts": 0}, {"samples": -1}, {"embeds": None}, {"embeds_file": b"/nowhere"},
    ],
    ids=str,
)  # fmt: skip
def test_embeddings_that_do_not_fit_are_refused(library: Library, change: dict[str, Any]) -> None:
    session = library.open(GOLDEN_V3_TEXT, backend="null").session()
    fields = embeds_fields(example_embeds(Bundle.open(GOLDEN_V3_TEXT, backend="null"), 1))
    session.start(**fields)
    with pytest.raises(RequestError):
        session.start(**fields | change)
    session.step(0)  # a refused request changes nothing


def test_guidance_of_a_bundle_without_it_is_refused_by_both(library: Library, folder: Path) -> None:
    edit_manifest(folder, lambda m: (put("rows_per_sample", value=1)(m), put("guidance", value=1.0)(m), _half_slots(m)))
    cpp, python = library.open(folder, backend="null").session(), Bundle.open(folder, backend="null").session()
    cpp.start(labels=[1], has_guidance=1, guidance=1.0)
    python.start([1], guidance=1.0)
    with pytest.raises(RequestError, match="without guidance"):
        cpp.start(labels=[1], has_guidance=1, guidance=2.0)
    with pytest.raises(RequestError):
        python.start([1], guidance=2.0)


def _half_slots(manifest: Any) -> None:
    manifest["arena"].update({key: value // 2 for key, value in manifest["arena"].items()})
    for step in manifest["steps"]:
        for key in ("read_offsets", "write_offsets"):
            step[key] = [offset // 2 for offset in step[key]]


def test_a_cancelled_generation_leaves_the_session_usable(library: Library, backend: str) -> None:
    session: CppSession = library.open(GOLDEN_V3, backend=backend, threads=1).session()
    expected = session.generate(labels=[3, 7], seed=3)
    seen: list[int] = []
    with pytest.raises(CancelledError):
        session.generate(labels=[3, 7], seed=3, progress=lambda done, _: seen.append(done) or done == 4)
    assert seen == [1, 2, 3, 4]
    session.start(labels=[3, 7], seed=3)
    session.step(0)
    session.cancel()
    with pytest.raises(CancelledError):
        session.step(1)
    with pytest.raises(RequestError):
        session.latents()
    assert np.array_equal(session.generate(labels=[3, 7], seed=3), expected)
