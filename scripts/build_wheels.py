"""Build the wheels of both distributions into a folder: python scripts/build_wheels.py dist

From copies of the sources: a `build` folder left in a source tree by an earlier build would be packed, too. setuptools
is taken from this environment where that is new enough, else pip fetches it.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = {ROOT / "runtime/python": "soda_runtime", ROOT: "soda_export"}
_BESIDE = ("pyproject.toml", "README.md", "LICENSE", "NOTICE")
_SETUPTOOLS = 77


def main() -> None:
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(out)]
    if _has_setuptools():
        pip.append("--no-build-isolation")
    with tempfile.TemporaryDirectory() as folder:
        for source, package in _PACKAGES.items():
            copy = Path(folder) / package
            shutil.copytree(source / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
            for name in _BESIDE:
                if (source / name).is_file():
                    shutil.copyfile(source / name, copy / name)
            subprocess.run([*pip, str(copy)], check=True)


def _has_setuptools() -> bool:
    try:
        return int(importlib.metadata.version("setuptools").partition(".")[0]) >= _SETUPTOOLS
    except importlib.metadata.PackageNotFoundError:
        return False


if __name__ == "__main__":
    main()
