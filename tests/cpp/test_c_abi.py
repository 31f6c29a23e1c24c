"""The C ABI as an application sees it: symbols, sizes, the header, threads, and what a bundle says of itself."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from soda_runtime import Bundle, EngineError

from tests.runtime.bundles import GOLDEN_V3, GOLDEN_V3_TEXT

from .library import BUILD, ROOT, CancelledError, Library, has_backend

CPP = ROOT / "runtime" / "cpp"
HEADER = CPP / "include" / "soda_runtime.h"


def _exported(path: Path) -> set[str]:
    text = subprocess.run(["nm", "-D", "--defined-only", str(path)], check=True, capture_output=True, text=True).stdout
    names = {line.split()[-1].partition("@")[0] for line in text.splitlines()}
    return {name for name in names if not re.fullmatch(r"SODA_(BACKEND_)?\d+", name)}


@pytest.mark.usefixtures("library")
def test_the_library_exports_what_the_header_declares_and_nothing_else() -> None:
    declared = set(re.findall(r"^SODA_API [^;(]*?\b(soda_\w+)\(", HEADER.read_text(), re.MULTILINE))
    listed = set(re.findall(r"^ {4}(soda_\w+);", (CPP / "src" / "libsoda_runtime.map").read_text(), re.MULTILINE))
    assert _exported(BUILD / "lib" / "libsoda_runtime.so") == declared == listed
    assert len(declared) == 34


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("name", ["null", "ort", "openvino", "trt"])
def test_a_backend_exports_its_table_alone(name: str) -> None:
    if not has_backend(name):
        pytest.skip(f"the backend {name} has not been built; `make cpp` says why")
    assert _exported(BUILD / "lib" / f"libsoda_runtime_{name}.so") == {"soda_backend_table"}


@pytest.mark.usefixtures("library")
def test_the_library_without_backends_is_small(tmp_path: Path, record_property: pytest.FixtureRequest) -> None:
    stripped = tmp_path / "stripped.so"
    subprocess.run(["strip", "-o", str(stripped), str(BUILD / "lib" / "libsoda_runtime.so")], check=True)
    assert stripped.stat().st_size <= 1_800_000  # tokenizer, LoRA and policies included
    needed = subprocess.run(["readelf", "-d", str(stripped)], check=True, capture_output=True, text=True).stdout
    assert not re.search(r"NEEDED.*(onnxruntime|openvino|nvinfer|cuda)", needed)


def test_the_header_is_short_and_plain_c(tmp_path: Path) -> None:
    assert len(HEADER.read_text().splitlines()) <= 345
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    (tmp_path / "use.c").write_text('#include "soda_runtime.h"\nint main(void) { return SODA_OK; }\n')
    flags = ["-std=c99", "-pedantic-errors", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", f"-I{HEADER.parent}"]
    subprocess.run([compiler, *flags, str(tmp_path / "use.c")], check=True)


def test_a_bundle_describes_itself(library: Library) -> None:
    assert library.c.soda_abi_version() == 1
    bundle, manifest = (
        library.open(GOLDEN_V3_TEXT, backend="null"),
        Bundle.open(GOLDEN_V3_TEXT, backend="null").manifest,
    )
    info = bundle.info()
    assert (info.name, info.family, info.backend, info.precision) == (b"tiny", b"pixart", b"null", b"fp32")
    assert tuple(info.latent_shape) == manifest.model.latent_shape
    assert list(info.image_shape) == [16, 16, 3]
    assert (info.steps, info.condition, info.max_tokens, info.embed_width) == (10, 1, 8, 16)
    assert (info.takes_tokens, info.has_guidance, info.stochastic, info.num_classes) == (1, 1, 0, 0)
    assert info.guidance == manifest.guidance
    names = [name for name, _, _ in bundle.ports(0)]
    assert names == [
        "token_ids", "negative_token_ids", "token_mask", "negative_token_mask", "embeds", "negative_embeds",
        "noise_initial",
    ]  # fmt: skip
    assert bundle.ports(1) == [("latents", 0, [-1, 4, 8, 8]), ("images", 0, [-1, 16, 16, 3])]
    for i, step in enumerate(manifest.steps):
        found, program = bundle.step(i), manifest.programs[step.program]
        assert (found.file.decode(), found.program, found.flops) == (program.file, step.program, program.flops)
        assert (found.reads, found.writes) == (len(program.reads), len(program.writes))
        assert found.timestep == manifest.sampler.timesteps[i]


def test_a_missing_engine_library_is_an_engine_error(library: Library) -> None:
    if not has_backend("ort"):
        pytest.skip("the backend ort has not been built; `make cpp` says why")
    with pytest.raises(EngineError, match="ONNX Runtime cannot be loaded") as caught:
        library.open(GOLDEN_V3, engine_library="/nowhere/libonnxruntime.so")
    assert caught.value.status == 201  # type: ignore[attr-defined]
    with pytest.raises(EngineError, match="device 'tpu'"):
        library.open(GOLDEN_V3, device="tpu")


@pytest.mark.parametrize("name", ["ort", "openvino"])
def test_sixteen_threads_generate_as_one_does(library: Library, name: str) -> None:
    if not has_backend(name):
        pytest.skip(f"the backend {name} has not been built; `make cpp` says why")
    bundle = library.open(GOLDEN_V3, backend=name, threads=1)

    def play(seed: int) -> list[np.ndarray]:
        session = bundle.session()
        return [session.generate(labels=[seed % 10, 7], seed=seed + i) for i in range(3)]

    serial = [play(seed) for seed in range(16)]
    with ThreadPoolExecutor(16) as pool:
        parallel = list(pool.map(play, range(16)))
    for alone, together in zip(serial, parallel, strict=True):
        for expected, latents in zip(alone, together, strict=True):
            assert np.array_equal(expected, latents)


def test_cancelling_from_another_thread_ends_within_a_step(library: Library) -> None:
    name = "ort" if has_backend("ort") else "null"
    session = library.open(GOLDEN_V3, backend=name, threads=1).session()
    expected = session.generate(labels=[3], seed=1)
    reached, cancelled, seen = threading.Event(), threading.Event(), []

    def progress(done: int, steps: int) -> bool:
        seen.append(done)
        if done == 5:
            reached.set()
            assert cancelled.wait(10)
        return False

    def cancel() -> None:
        assert reached.wait(10)
        session.cancel()
        cancelled.set()

    other = threading.Thread(target=cancel)
    other.start()
    with pytest.raises(CancelledError):
        session.generate(labels=[3], seed=1, progress=progress)
    other.join()
    assert seen[-1] == 5
    assert np.array_equal(session.generate(labels=[3], seed=1), expected)


def test_a_generation_in_one_call_is_the_same(library: Library) -> None:
    session = library.open(GOLDEN_V3, backend="null").session()
    latents = np.empty((2, 1, 8, 8), np.float32)
    session.generate_whole(latents, labels=[3, 7], seed=5)
    assert np.array_equal(latents, session.generate(labels=[3, 7], seed=5))
