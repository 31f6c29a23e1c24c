"""soda-export verify"""

from __future__ import annotations

from pathlib import Path

from ..errors import BundleError
from ..pack import prove_bundle
from .terminal import print_json


def verify(bundle: str, /, *, json: bool = False) -> None:
    """Check every byte of a bundle: the hash of every file, the manifest, and the dispatch of every step.

    Examples:

        soda-export verify engines/digits-b17-ort

    Parameters
    ----------
    bundle
        Bundle folder.
    json
        Print the result as JSON.
    """
    folder = Path(bundle)
    if not folder.is_dir():
        raise BundleError(f"{folder}: no such bundle folder; `soda-export build` makes one")
    manifest = prove_bundle(folder)
    if json:
        print_json({"bundle": bundle, "files": len(manifest.files), "ok": True})
    else:
        print(f"{bundle}: {len(manifest.files)} files and {len(manifest.steps)} steps are sound")
