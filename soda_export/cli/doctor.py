"""soda-export doctor"""

from __future__ import annotations

from ..bench.doctor import examine
from ..compile import REGISTRY, library_version
from ..errors import UsageError
from .terminal import print_columns, print_json, print_table, say


def doctor(*, require: str = "", json: bool = False) -> None:
    """Say which backends, devices and optional packages this machine has, and how to install what is missing.

    Examples:

        soda-export doctor

        soda-export doctor --require openvino

    Parameters
    ----------
    require
        Backend that must be there: where it is not, one line and exit code 2.
    json
        Print as JSON.
    """
    if require:
        if require not in REGISTRY:
            raise UsageError(f"--require {require}: not a backend; there are {', '.join(REGISTRY)}")
        library_version(require)
    found = examine()
    if json:
        print_json(found)
        return
    machine = found.machine
    print_table(
        f"soda-export {found.soda_export}, Python {found.python}",
        [
            ("processor", f"{machine.processor}, {machine.cores} cores, {machine.memory_bytes / 1e9:.0f} GB"),
            ("instructions", " ".join(machine.features) or "none of those that engines make use of"),
            ("GPUs", ", ".join(machine.gpus) or "none that the NVIDIA driver knows of"),
        ],
    )
    print_columns(
        "backends", ("backend", "version", "runs on", "to install"),
        [
            (b.name, b.version or "missing", ", ".join(b.devices), "" if b.version else b.install)
            for b in found.backends
        ],
    )
    for reason in dict.fromkeys(b.no_gpu for b in found.backends if b.no_gpu):
        names = ", ".join(b.name for b in found.backends if b.no_gpu == reason)
        say(f"not on a GPU: {names} ({reason})")
    print_columns(
        "optional packages", ("package", "version", "for", "to install"),
        [(p.name, p.version or "missing", p.purpose, "" if p.version else p.install) for p in found.packages],
    )
