"""soda-export inspect BUNDLE: what each size of a bundle of several has of its own, and what it shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from soda_runtime.checks import open_sizes
from soda_runtime.manifest import Manifest
from soda_runtime.signature import program_files

from ..report.describe import megabytes


def inspect_sizes_of(folder: Path, manifest: Manifest) -> list[dict[str, Any]]:
    """One row a size, in the bundle's order; shared: its engines that an earlier size has, too."""
    rows, known = [], set[str]()
    for (height, width), sized in open_sizes(folder, manifest).items():
        files = [file for file, _ in program_files(sized)]
        rows.append({
            "height": height, "width": width, "latent_shape": sized.model.latent_shape, "engines": len(files),
            "shared": sorted(known.intersection(files)), "flops_ratio": sized.flops_ratio,
            "step_flops": sized.programs[sized.baseline_program].flops, "arena_bytes": sized.arena.bytes,
            "own_bytes": sum(entry.bytes for name, entry in sized.files.items() if name in set(files) - known),
        })  # fmt: skip
        known.update(files)
    return rows


def size_rows(sizes: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """The same in words."""
    return [
        (
            f"size {row['height']}x{row['width']}",
            f"{row['engines']} engines"
            + (f", {len(row['shared'])} of them shared ({', '.join(row['shared'])})" if row["shared"] else "")
            + f"; FLOPs ratio {row['flops_ratio']:.3f}, arena {megabytes(row['arena_bytes'])} a sample",
        )
        for row in sizes
    ]
