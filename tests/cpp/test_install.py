"""The tarball of CPack, unpacked, serves applications: find_package, pkg-config with a C compiler, and the examples.

SODA_CPP_PACKAGE names a tarball to judge (`make cpp-package`); without it one is made of what `make cpp` built.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from soda_runtime import Bundle

from tests.runtime.bundles import GOLDEN_V3, GOLDEN_V3_TEXT

from .fields import example_embeds
from .library import BUILD, ROOT


def _run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, unpacked into an empty folder."""
    folder = tmp_path_factory.mktemp("package")
    with tarfile.open(_package(folder)) as package:
        package.extractall(folder, filter="data")
    (unpacked,) = (path for path in folder.iterdir() if path.is_dir() and path.name.startswith("soda_runtime-"))
    return unpacked


def _package(folder: Path) -> Path:
    if "SODA_CPP_PACKAGE" in os.environ:
        return Path(os.environ["SODA_CPP_PACKAGE"])
    if not (BUILD / "lib" / "libsoda_runtime.so").exists():
        pytest.skip("libsoda_runtime.so has not been built; run `make cpp`")
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not on the path")
    _run("cpack", "--config", BUILD / "CPackConfig.cmake", "-B", folder / "made")
    (package,) = (folder / "made").glob("*.tar.gz")
    return package


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
    documents = installed / "share/doc/soda_runtime"
    assert "Apache License" in (documents / "LICENSE").read_text()
    assert "nlohmann" in (documents / "NOTICE").read_text()
    assert "`null`" in (documents / "README.md").read_text()


def test_its_tools_run_where_it_was_unpacked(installed: Path, tmp_path: Path) -> None:
    refused = subprocess.run([installed / "bin/soda-generate"], capture_output=True, text=True, env={})
    assert (refused.returncode, refused.stderr.partition(":")[0]) == (2, "usage")
    measured = _run(installed / "bin/soda-latency", GOLDEN_V3, "1", "1", "null")
    assert "ms" in measured


def test_a_package_for_other_machines_names_no_folder_of_this_one(installed: Path) -> None:
    if "SODA_CPP_PACKAGE" not in os.environ:
        pytest.skip("the package is for this machine; run `make cpp-package`")
    own = [str(folder).encode() for folder in (ROOT, sys.prefix)]
    files = [path for path in installed.rglob("*") if path.is_file() and not path.is_symlink()]
    assert [str(path) for path in files if any(folder in path.read_bytes() for folder in own)] == []


@pytest.fixture(scope="module")
def consumer(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example application, built in a folder of its own against the package."""
    folder = tmp_path_factory.mktemp("consumer")
    source = installed / "share/doc/soda_runtime/examples/consumer"
    _run("cmake", "-S", source, "-B", folder, f"-DCMAKE_PREFIX_PATH={installed}")
    _run("cmake", "--build", folder)
    return folder / "consumer"


def test_an_application_finds_the_package(consumer: Path) -> None:
    expected = Bundle.open(GOLDEN_V3, backend="null").session().generate(0, seed=1)
    said = _run(consumer, GOLDEN_V3, "null")
    assert said == f"tiny: 10 steps on null\n64 latents, the first is {expected.flat[0]:g}\n"
    refused = subprocess.run([consumer, "/nowhere"], capture_output=True, text=True)
    assert refused.returncode == 1
    assert "no such bundle folder" in refused.stderr


def test_an_application_plays_with_the_engine_library_on_the_loaders_path(
    installed: Path, consumer: Path, tmp_path: Path
) -> None:
    library = importlib.util.find_spec("onnxruntime")
    if library is None or not (_library_folder(installed) / "libsoda_runtime_ort.so").exists():
        pytest.skip("ONNX Runtime or the backend for it is not there")
    (wheel,) = (Path(str(library.origin)).parent / "capi").glob("libonnxruntime.so.*")
    (tmp_path / "libonnxruntime.so.1").symlink_to(wheel)
    expected = Bundle.open(GOLDEN_V3, backend="ort", threads=1).session().generate(0, seed=1)
    said = _run(consumer, GOLDEN_V3, "ort", LD_LIBRARY_PATH=str(tmp_path))
    assert float(said.split()[-1]) == pytest.approx(float(expected.flat[0]), rel=1e-4)


def test_a_c_program_builds_with_pkg_config(installed: Path, tmp_path: Path) -> None:
    if shutil.which("pkg-config") is None or shutil.which("cc") is None:
        pytest.skip("pkg-config or cc is not on the path")
    libraries, program = _library_folder(installed), tmp_path / "generate"
    command = ("pkg-config", "--cflags", "--libs", "soda_runtime")
    flags = _run(*command, PKG_CONFIG_PATH=str(libraries / "pkgconfig")).split()
    include = next(Path(flag[2:]) for flag in flags if flag.startswith("-I"))
    assert include.resolve() == (installed / "include").resolve()
    warnings = ["-std=c99", "-Wall", "-Wextra", "-Werror"]
    source = installed / "share/doc/soda_runtime/examples/generate.c"
    _run("cc", *warnings, source, "-o", program, *flags)
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
