"""Install both distributions with the lowest or the newest allowed dependencies, and check that they work.

    python scripts/floors.py lowest .venv-floors
    python scripts/floors.py newest .venv-newest

A floor is what a `>=` in one of the two pyproject.toml says. `lowest` installs exactly those; what they in turn need is
pip's choice. torch is the one of constraints.txt in both: its CPU build is not on offer in every version. What is then
checked is in floors_check.py.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUNTIME, EXPORT = ROOT / "runtime/python", ROOT
_EXTRAS = {RUNTIME: ("ort", "openvino", "text"), EXPORT: ("train",)}
_PACKAGES = {RUNTIME: "soda_runtime", EXPORT: "soda_export"}
_OUR_OWN = ("soda-runtime", "soda-export")
_FLOOR = re.compile(r"(?P<name>[A-Za-z0-9_-]+)(\[[^\]]*\])?>=(?P<version>[0-9.]+)")


def floors() -> Iterator[tuple[str, str]]:
    """(name, lowest version) of what both distributions need, with the extras that a CPU can use; torch left out."""
    for source, extras in _EXTRAS.items():
        project = tomllib.loads((source / "pyproject.toml").read_text())["project"]
        needed = [*project["dependencies"], *(d for extra in extras for d in project["optional-dependencies"][extra])]
        for text in needed:
            match = _FLOOR.match(text)
            if match and match["name"] != "torch":
                yield match["name"], match["version"]
            elif not text.startswith((*_OUR_OWN, "torch")):
                sys.exit(f"{source / 'pyproject.toml'}: {text} has no floor")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=["lowest", "newest"])
    parser.add_argument("environment", type=Path, help="folder of the virtual environment, made anew")
    args = parser.parse_args()
    shutil.rmtree(args.environment, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(args.environment)], check=True)
    python = args.environment.resolve() / "bin/python"
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run([sys.executable, str(ROOT / "scripts/build_wheels.py"), scratch], check=True)
        allowed = (ROOT / "constraints.txt").read_text()
        if args.which == "lowest":
            allowed += "".join(f"{name}=={version}\n" for name, version in floors())
        constraints = Path(scratch) / "constraints.txt"
        constraints.write_text(allowed)
        wanted = [
            f"{wheel.name.partition('-')[0].replace('_', '-')}[{','.join(_EXTRAS[source])}] @ {wheel.as_uri()}"
            for source in (RUNTIME, EXPORT)
            for wheel in Path(scratch).glob(f"{_PACKAGES[source]}-*.whl")
        ]
        pip = [str(python), "-m", "pip", "install", "--quiet", "--no-compile", "--constraint", str(constraints)]
        subprocess.run([*pip, *wanted], check=True)
        # -I: what was installed is checked, not this source tree
        check = [str(python), "-I", str(ROOT / "scripts/floors_check.py"), str(ROOT / "tests/golden")]
        sys.exit(subprocess.run(check, cwd=scratch).returncode)


if __name__ == "__main__":
    main()
