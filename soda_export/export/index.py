"""What an export folder holds: export.json. No torch."""

from __future__ import annotations

from pathlib import Path

import msgspec
from soda_runtime.manifest import PreparedTensor, PrepareProgram, Slot

INDEX_NAME = "export.json"


class ExportIndex(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """export.json: the files of an export. programs: step programs in the table's order; inputs: the prepared
    tensors that each takes. slots: what programs keep for later steps. mask_shape: of an inpainting
    bundle's mask, else empty."""

    precision: str
    tensors: tuple[PreparedTensor, ...]
    prepare: tuple[PrepareProgram, ...]
    programs: tuple[str, ...]
    inputs: tuple[tuple[str, ...], ...]
    weights: str
    tables_file: str
    state_size: int
    stochastic: bool
    learned_variance: bool
    initial_scale: float
    timesteps: tuple[float, ...]
    slots: tuple[Slot, ...]
    fitted: bool = False
    mask_shape: tuple[int, ...] = ()

    @property
    def graphs(self) -> tuple[str, ...]:
        """Every graph's file name."""
        return (*(program.file for program in self.prepare), *self.programs)


def sized_name(name: str, suffix: str) -> str:
    """The name of a size's file: `program-00.onnx` and `-512x768` give `program-00-512x768.onnx`."""
    stem, ending = name.rsplit(".", 1)
    return f"{stem}{suffix}.{ending}"


def read_index(folder: Path, suffix: str = "") -> ExportIndex:
    """Read export.json of a folder that export_programs made; suffix: of a size's files."""
    return msgspec.json.decode((folder / sized_name(INDEX_NAME, suffix)).read_bytes(), type=ExportIndex)
