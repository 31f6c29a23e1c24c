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
_OUR_OWN = ("soda-runtime", "soda-export")
_PARTS = {RUNTIME: ("soda_runtime",), EXPORT: ("soda_export", "README.md")}
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


def build_wheels(folder: Path) -> list[Path]:
    """The wheels of both distributions, from copies of the sources: a `build` left in a source tree would be packed."""
    for source in (RUNTIME, EXPORT):
        copy = folder / source.name
        copy.mkdir(parents=True)
        for part in (*_PARTS[source], "pyproject.toml", "LICENSE"):
            whole = source / part
            if whole.is_dir():
                shutil.copytree(whole, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
            elif whole.exists():
                shutil.copyfile(whole, copy / part)
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder / "wheels")]
        subprocess.run([*pip, str(copy)], check=True)
    return sorted((folder / "wheels").glob("*.whl"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=["lowest", "newest"])
    parser.add_argument("environment", type=Path, help="folder of the virtual environment, made anew")
    args = parser.parse_args()
    shutil.rmtree(args.environment, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(args.environment)], check=True)
    python = args.environment.resolve() / "bin/python"
    with tempfile.TemporaryDirectory() as scratch:
        wheels = build_wheels(Path(scratch))
        allowed = (ROOT / "constraints.txt").read_text()
        if args.which == "lowest":
            allowed += "".join(f"{name}=={version}\n" for name, version in floors())
        constraints = Path(scratch) / "constraints.txt"
        constraints.write_text(allowed)
        extras = {f"{path.name.split('-')[0]}": path for path in wheels}
        wanted = [
            f"soda-runtime[ort,openvino,text] @ {extras['soda_runtime'].as_uri()}",
            f"soda-export[train] @ {extras['soda_export'].as_uri()}",
        ]
        pip = [str(python), "-m", "pip", "install", "--quiet", "--no-compile", "--constraint", str(constraints)]
        subprocess.run([*pip, *wanted], check=True)
        # -I: what was installed is checked, not this source tree
        check = [str(python), "-I", str(ROOT / "scripts/floors_check.py"), str(ROOT / "tests/golden")]
        sys.exit(subprocess.run(check, cwd=scratch).returncode)


if __name__ == "__main__":
    main()
