"""Text of a manifest.json of any version into the current version's terms."""

from __future__ import annotations

from .errors import BundleError
from .manifest import FORMAT, VERSION, Manifest
from .manifest_v1 import upgrade_v1
from .manifest_v4 import upgrade_v4
from .strict_json import StrictJsonError, brief, decode, parse_json, require_printable


def parse_manifest(text: bytes, where: str) -> Manifest:
    """Decode manifest.json strictly; the version is looked at first, so that a newer format says so."""
    try:
        value = parse_json(text)
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise BundleError(f"{where}: not a soda bundle manifest; give the folder that `soda-export build` made")
        version = value.get("version")
        if isinstance(version, (bool, float)) or version not in range(1, VERSION + 1):
            raise BundleError(
                f"{where}: format version {brief(version):.20}, this runtime reads 1 to {VERSION}; "
                "update soda-runtime or rebuild the bundle"
            )
        require_printable(value)
        if version == VERSION:
            return decode(Manifest, value)
        return upgrade_v1(value) if version == 1 else upgrade_v4(value)
    except StrictJsonError as error:
        raise BundleError(f"{where}: {error}; rebuild the bundle with this version of soda-export") from None
