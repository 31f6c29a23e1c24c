"""What an export folder holds: export.json. No torch."""

from __future__ import annotations

from pathlib import Path

import msgspec

INDEX_NAME = "export.json"


class ExportIndex(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """export.json: the files of an export. programs: in the table's order. tables: inputs of prepare.

    conditioning, num_conditions: name and entries of the tensor that prepare makes.
    """

    prepare: str
    programs: tuple[str, ...]
    weights: str
    tables_file: str
    tables: tuple[str, ...]
    conditioning: str
    num_conditions: int
    state_size: int
    stochastic: bool
    initial_scale: float
    timesteps: tuple[int, ...]


def read_index(folder: Path) -> ExportIndex:
    """Read export.json of a folder that export_programs made."""
    return msgspec.json.decode((folder / INDEX_NAME).read_bytes(), type=ExportIndex)
