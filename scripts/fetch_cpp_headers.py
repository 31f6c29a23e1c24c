"""Headers that the C++ runtime needs and no wheel ships, out of Debian's packages, into a folder: no root needed.

    python scripts/fetch_cpp_headers.py .venv/cpp

nlohmann-json, and ONNX Runtime's C API (libonnxruntime-dev is in Debian 13 and later; an older header works with a
newer library). What the system has is left to CMake to find. Where a download is not possible it says so and ends well:
CMake then names what is missing and how to get it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SUITE = "trixie"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
PACKAGES = {
    "nlohmann-json3-dev": "nlohmann/json.hpp",
    "libonnxruntime-dev": "onnxruntime/onnxruntime_c_api.h",
}


def main() -> None:
    out = Path(sys.argv[1])
    places = (Path("/usr/include"), Path("/usr/local/include"), out / "usr" / "include")
    missing = [name for name, header in PACKAGES.items() if not any((place / header).exists() for place in places)]
    if not missing:
        return
    tools = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
    if tools or not KEYRING.exists():
        print(f"{', '.join(missing)}: not downloaded, there is no {' or '.join(tools) or KEYRING}", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as scratch:
        try:
            _download(Path(scratch), missing)
        except subprocess.CalledProcessError as error:
            print(f"{', '.join(missing)}: not downloaded: {error.stderr.strip()[-500:]}", file=sys.stderr)
            return
        out.mkdir(parents=True, exist_ok=True)
        for package in Path(scratch).glob("*.deb"):
            subprocess.run(["dpkg-deb", "--extract", str(package), str(out)], check=True)
            print(f"{package.name}: headers in {out / 'usr' / 'include'}")


def _download(folder: Path, packages: list[str]) -> None:
    """apt-get with lists of its own, so that the system's sources and state stay as they are."""
    for name in ("lists/partial", "cache/archives/partial", "sources"):
        (folder / name).mkdir(parents=True)
    (folder / "sources" / "debian.sources").write_text(
        f"Types: deb\nURIs: http://deb.debian.org/debian\nSuites: {SUITE}\nComponents: main\nSigned-By: {KEYRING}\n"
    )
    options = {
        "Dir::Etc::SourceList": "/dev/null", "Dir::Etc::SourceParts": folder / "sources",
        "Dir::State::Lists": folder / "lists", "Dir::Cache": folder / "cache", "APT::Sandbox::User": "",
    }  # fmt: skip
    apt = ["apt-get", *(part for name, value in options.items() for part in ("-o", f"{name}={value}"))]
    for command in (["update"], ["download", *packages]):
        subprocess.run([*apt, *command], check=True, cwd=folder, capture_output=True, text=True)


if __name__ == "__main__":
    main()
