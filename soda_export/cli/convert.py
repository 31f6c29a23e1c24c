"""soda-export convert"""

from __future__ import annotations

from pathlib import Path

from ..report.describe import megabytes
from .terminal import print_json, say


def convert(folder: Path, /, *, json: bool = False) -> None:
    """Write a model's pickled weights as .safetensors beside them, without running what a pickle may hold.

    Every component of the folder (transformer, vae, text_encoder) that has pickles only is converted; the pickles
    stay.

    Examples:

        soda-export convert path/to/diffusers-folder

    Parameters
    ----------
    folder
        Diffusers pipeline folder, or the folder of one component.
    json
        Print the result as JSON.
    """
    from ..export.convert import convert_folder  # with torch, which help pages do without

    written = convert_folder(folder)
    if json:
        print_json([{"file": str(c.path), "tensors": c.tensors, "bytes": c.bytes} for c in written])
        return
    for converted in written:
        say(f"{converted.path}: {converted.tensors} tensors, {megabytes(converted.bytes)}")
    if not written:
        say(f"{folder}: nothing to convert: every component has .safetensors already")
