"""The installed tree serves applications: find_package, pkg-config with a C compiler, and the examples."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from soda_runtime import Bundle

from tests.runtime.bundles import GOLDEN_V3, GOLDEN_V3_TEXT

from .library import BUILD, ROOT, example_embeds

EXAMPLES = ROOT / "runtime" / "cpp" / "examples"


def _run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library installed into a folder of its own."""
    if not (BUILD / "lib" / "libsoda_runtime.so").exists():
        pytest.skip("libsoda_runtime.so has not been built; run `make cpp`")
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not on the path")
    prefix = tmp_path_factory.mktemp("prefix")
    _run("cmake", "--install", BUILD, "--prefix", prefix)
    return prefix


def _library_folder(prefix: Path) -> Path:
    (found,) = prefix.rglob("libsoda_runtime.so")
    return found.parent


def test_the_tree_has_the_usual_layout(installed: Path) -> None:
    libraries = _library_folder(installed)
    assert libraries.relative_to(installed).parts[0] in ("lib", "lib64")
    assert (libraries / "libsoda_runtime.so.1").is_symlink()
    assert (libraries / "libsoda_runtime_null.so").is_file()
    assert (libraries / "pkgconfig" / "soda_runtime.pc").is_file()
    assert (libraries / "cmake" / "soda_runtime" / "soda_runtimeConfig.cmake").is_file()
    assert {path.name for path in (installed / "include").iterdir()} == {"soda_runtime.h", "soda_runtime.hpp"}


def test_an_application_finds_the_package(installed: Path, tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES / "consumer", tmp_path / "consumer")
    build = tmp_path / "build"
    _run("cmake", "-S", tmp_path / "consumer", "-B", build, f"-DCMAKE_PREFIX_PATH={installed}")
    _run("cmake", "--build", build)
    expected = Bundle.open(GOLDEN_V3, backend="null").session().generate(0, seed=1)
    said = _run(build / "consumer", GOLDEN_V3, "null")
    assert said == f"tiny: 10 steps on null\n64 latents, the first is {expected.flat[0]:g}\n"
    refused = subprocess.run([build / "consumer", "/nowhere"], capture_output=True, text=True)
    assert refused.returncode == 1
    assert "no such bundle folder" in refused.stderr


def test_a_c_program_builds_with_pkg_config(installed: Path, tmp_path: Path) -> None:
    if shutil.which("pkg-config") is None or shutil.which("cc") is None:
        pytest.skip("pkg-config or cc is not on the path")
    libraries, program = _library_folder(installed), tmp_path / "generate"
    command = ("pkg-config", "--cflags", "--libs", "soda_runtime")
    flags = _run(*command, PKG_CONFIG_PATH=str(libraries / "pkgconfig")).split()
    include = next(Path(flag[2:]) for flag in flags if flag.startswith("-I"))
    assert include.resolve() == (installed / "include").resolve()
    warnings = ["-std=c99", "-Wall", "-Wextra", "-Werror"]
    _run("cc", *warnings, EXAMPLES / "generate.c", "-o", program, *flags)
    environment = {"LD_LIBRARY_PATH": str(libraries)}
    _run(program, GOLDEN_V3, tmp_path / "out.pgm", "3", "7", "null", **environment)
    session = Bundle.open(GOLDEN_V3, backend="null").session()
    session.generate(3, seed=7)
    pixels = np.floor(session.images() * np.float32(255) + np.float32(0.5)).astype(np.uint8)
    assert (tmp_path / "out.pgm").read_bytes() == b"P5 8 8 255\n" + pixels.tobytes()

    embeds = example_embeds(Bundle.open(GOLDEN_V3_TEXT, backend="null"), 1)
    save_file({k: v for k, v in embeds._asdict().items() if v is not None}, tmp_path / "embeds.safetensors")
    _run(program, GOLDEN_V3_TEXT, tmp_path / "o.ppm", tmp_path / "embeds.safetensors", "7", "null", **environment)
    assert (tmp_path / "o.ppm").read_bytes().startswith(b"P6 16 16 255\n")


def test_the_tree_may_be_moved(installed: Path, tmp_path: Path) -> None:
    if shutil.which("pkg-config") is None:
        pytest.skip("pkg-config is not on the path")
    moved = tmp_path / "moved"
    shutil.copytree(installed, moved, symlinks=True)
    path = str(_library_folder(moved) / "pkgconfig")
    folders = [_run("pkg-config", f"--variable={name}", "soda_runtime", PKG_CONFIG_PATH=path).strip()
               for name in ("prefix", "libdir", "includedir")]  # fmt: skip
    assert [Path(each).resolve() for each in folders] == [
        moved.resolve(), _library_folder(moved).resolve(), (moved / "include").resolve()
    ]  # fmt: skip


WRONG: dict[str, tuple[str, list[str], str]] = {
    "generate_c without a bundle": ("generate_c", [], "usage: "),
    "generate_c with a folder that is no bundle": ("generate_c", ["/nowhere", "o"], "no such bundle folder"),
    "generate_c with a word for a label": ("generate_c", ["BUNDLE", "o", "x"], "'x' is not a whole number"),
    "generate_c with a label beyond the last": ("generate_c", ["BUNDLE", "o", "10", "1", "null"], "outside 0 .. 9"),
    "generate_c with a word for a seed": ("generate_c", ["BUNDLE", "o", "1", "x"], "'x' is not a whole number"),
    "generate_c with an unknown backend": ("generate_c", ["BUNDLE", "o", "1", "1", "tpu"], "backend 'tpu'"),
    "generate_c without its embeddings": ("generate_c", ["TEXT", "o", "/nowhere", "1", "null"], "/nowhere: missing"),
    "generate without a bundle": ("generate", [], "usage: "),
    "generate with a word among the labels": ("generate", ["BUNDLE", "o", "1,x"], "'x' is not a whole number"),
    "generate with a word for a seed": ("generate", ["BUNDLE", "o", "1", "x"], "'x' is not a whole number"),
    "latency without a bundle": ("latency", [], "usage: "),
    "latency of no samples": ("latency", ["BUNDLE", "0"], "'0' is not a whole number of at least 1"),
    "latency of no rounds": ("latency", ["BUNDLE", "1", "0"], "'0' is not a whole number of at least 1"),
    "latency with a word for the threads": ("latency", ["BUNDLE", "1", "1", "null", "x"], "'x' is not a whole number"),
}


@pytest.mark.parametrize(("example", "arguments", "reason"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_argument_to_an_example_gives_one_line(example: str, arguments: list[str], reason: str) -> None:
    program = BUILD / "bin" / example
    if not program.exists():
        pytest.skip(f"the example {example} has not been built; `make cpp` says why")
    bundles = {"BUNDLE": str(GOLDEN_V3), "TEXT": str(GOLDEN_V3_TEXT)}
    done = subprocess.run([program, *(bundles.get(each, each) for each in arguments)], capture_output=True, text=True)
    assert done.returncode == 2
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1


def test_backends_are_found_in_a_folder_that_the_environment_names(installed: Path, tmp_path: Path) -> None:
    shutil.copy(_library_folder(installed) / "libsoda_runtime_null.so", tmp_path)
    code = (
        "from tests.cpp.library import BUILD, Library\n"
        "library = Library(BUILD / 'lib' / 'libsoda_runtime.so')\n"
        f"library.open({str(GOLDEN_V3)!r}, backend='null')\n"
        f"try:\n    library.open({str(GOLDEN_V3)!r}, backend='ort')\nexcept Exception as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "SODA_RUNTIME_BACKENDS": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path}/libsoda_runtime_ort.so is not there" in done.stdout
