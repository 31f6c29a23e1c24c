"""soda-export verify"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from soda_runtime.chunks import chunks_of
from soda_runtime.sizes import read_size_list

from ..bench.layerwise import TOLERANCES, Comparison, compare_programs
from ..errors import BundleError, UsageError
from ..workbench.prove import play_bundle, prove_bundle
from .terminal import print_json, print_table, progress_bar, say


def verify(bundle: str, /, *, programs: bool = False, device: str = "auto", json: bool = False) -> None:
    """Check every byte of a bundle: the hash of every file, the manifest, and the dispatch of every step of every size.

    With --programs, also what every program computes, layer by layer, against ONNX's reference implementation.

    Examples:

        soda-export verify engines/digits-b17-ort

        soda-export verify engines/digits-b17-ort --programs

    Parameters
    ----------
    bundle
        Bundle folder.
    programs
        Run every program and compare every layer's output; name the first that is off. Slow for big models.
    device
        Where to run them: cpu, cuda or cuda:N; auto is the backend's own.
    json
        Print the result as JSON.
    """
    if device != "auto" and not programs:
        raise UsageError(f"--device {device}: goes with --programs, which runs them there")
    folder = Path(bundle)
    if not folder.is_dir():
        raise BundleError(f"{folder}: no such bundle folder; `soda-export build` makes one")
    manifest = prove_bundle(folder)
    if programs:
        play_bundle(folder, manifest, device)
    compared = _compare(folder, device) if programs else []
    if json:
        rows = [asdict(each) for each in compared]
        more = {"programs": rows, "tolerance": TOLERANCES[manifest.precision]} if programs else {}
        print_json({"bundle": bundle, "files": len(manifest.files), "ok": True, **more})
        return
    parts = [f"{len(manifest.files)} files", f"{len(manifest.steps)} steps"]
    sizes = len(read_size_list(folder, manifest))
    parts += [f"{sizes} sizes"] if sizes > 1 else []
    chunks = len(chunks_of(manifest))
    parts += [f"{chunks} chunks of video"] if chunks > 1 else []
    say(f"{bundle}: {', '.join(parts[:-1])} and {parts[-1]} are sound")
    if programs:
        print_table("programs against ONNX's reference", [(each.file, _describe(each)) for each in compared])


def _compare(folder: Path, device: str) -> list[Comparison]:
    """Raises BundleError for the first program with a layer that is off."""
    with progress_bar() as progress:
        compared = compare_programs(folder, lambda done, total: progress("programs", done, total), device)
    for each in compared:
        if each.first_bad:
            raise BundleError(
                f"{folder / each.file}: {each.first_bad} is the first layer that is off, the worst is {each.worst_at} "
                f"by {each.worst:.1e} of its largest value; rebuild the bundle, or report this"
            )
    return compared


def _describe(each: Comparison) -> str:
    text = f"{each.compared} values, the worst off by {each.worst:.1e} at {each.worst_at or 'none'}"
    return text + (f"; equal scores at {each.stopped}, nothing comparable after it" if each.stopped else "")
