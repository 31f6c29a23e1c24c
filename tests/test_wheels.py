"""The wheels of both distributions say what a package index shows, and have the licences of what they bring along."""

from __future__ import annotations

import email
import subprocess
import sys
import zipfile
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, zipfile.ZipFile]:
    """Package -> its wheel."""
    folder = tmp_path_factory.mktemp("wheels")
    built = subprocess.run(
        [sys.executable, str(ROOT / "scripts/build_wheels.py"), str(folder)], capture_output=True, text=True
    )
    if built.returncode:
        pytest.skip(f"pip cannot build wheels here: {built.stderr.strip().splitlines()[-1:]}")
    return {path.name.partition("-")[0]: zipfile.ZipFile(path) for path in folder.glob("*.whl")}


def metadata(wheel: zipfile.ZipFile) -> Message:
    name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(wheel.read(name))


@pytest.mark.parametrize("package", ["soda_runtime", "soda_export"])
def test_a_wheel_has_what_a_package_index_shows(wheels: dict[str, zipfile.ZipFile], package: str) -> None:
    fields = metadata(wheels[package])
    assert fields["License-Expression"] == "Apache-2.0"
    assert fields["Requires-Python"] == ">=3.11"
    assert fields["Description-Content-Type"] == "text/markdown"
    assert f"# {package.replace('_', '-')}" in str(fields.get_payload())
    kinds = fields.get_all("Classifier", [])
    assert "Operating System :: POSIX :: Linux" in kinds
    assert "Programming Language :: Python :: 3.11" in kinds
    for url in fields.get_all("Project-URL", []):  # no invented ones
        assert url.partition(", ")[2] in (ROOT / "README.md").read_text()


def test_wheels_have_the_licences_of_code_and_data(wheels: dict[str, zipfile.ZipFile]) -> None:
    assert set(metadata(wheels["soda_runtime"]).get_all("License-File", [])) == {"LICENSE"}
    assert set(metadata(wheels["soda_export"]).get_all("License-File", [])) == {"LICENSE", "NOTICE"}
    notice = next(name for name in wheels["soda_export"].namelist() if name.endswith("licenses/NOTICE"))
    text = wheels["soda_export"].read(notice).decode()
    assert "Optical Recognition of Handwritten" in text
    for path in (ROOT / "soda_export/models/published").glob("*.json"):
        assert path.stem in text or any(path.stem.startswith(word[:-1]) for word in ("sd3.5-*",)), path.stem


def test_wheels_have_every_data_file_of_the_sources(wheels: dict[str, zipfile.ZipFile]) -> None:
    for package, source in (("soda_runtime", ROOT / "runtime/python"), ("soda_export", ROOT)):
        files = {p.relative_to(source).as_posix() for p in (source / package).rglob("*") if p.is_file()}
        wanted = {name for name in files if "__pycache__" not in name and not name.endswith((".pyc", ".md"))}
        assert wanted - set(wheels[package].namelist()) == set()


def test_every_dependency_has_a_floor(wheels: dict[str, zipfile.ZipFile]) -> None:
    for wheel in wheels.values():
        for need in metadata(wheel).get_all("Requires-Dist", []):
            assert ">=" in need or need.startswith(("soda-", "torchvision")), need
