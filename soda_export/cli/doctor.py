"""soda-export doctor"""

from __future__ import annotations

from ..bench.doctor import examine
from ..bench.process import Process
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
    machine, process = found.machine, found.process
    print_table(
        f"soda-export {found.soda_export}, Python {found.python}",
        [
            ("processor", f"{machine.processor}, {machine.cores} cores, {machine.memory_bytes / 1e9:.0f} GB"),
            ("instructions", " ".join(machine.features) or "none of those that engines make use of"),
            ("AMX", _amx(machine.features)),
            ("GPUs", ", ".join(machine.gpus) or "none that the NVIDIA driver knows of"),
        ],
    )
    print_table("this process", _process_rows(process))
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


def _amx(features: tuple[str, ...]) -> str:
    found = [feature for feature in features if feature.startswith("amx")]
    return f"{', '.join(found)}: bf16 and int8 are fast on this processor" if found else "none"


def _process_rows(process: Process) -> list[tuple[str, str]]:
    quota = "" if process.quota_cores is None else f", by a quota of {process.quota_cores:g}"
    threads = f"; OMP_NUM_THREADS={process.omp_threads}" if process.omp_threads else ""
    owners = ", ".join(process.onnxruntime_of) or "none"
    if len(process.onnxruntime_of) > 1:
        owners += ": their files overwrite each other; uninstall all of them and install one"
    cache = process.cache or "none"
    return [
        ("locale", process.encoding),
        ("processors", f"{process.usable_cores:g} usable{quota}{threads}"),
        ("home", process.home or "none: hashes of bundles are not remembered"),
        ("cache", cache if process.cache_writable else f"{cache}, cannot be written: nothing is remembered"),
        ("temporary space", f"{process.temporary}, {process.temporary_free_bytes / 1e9:.1f} GB free"),
        ("onnxruntime/ is of", owners),
        ("fork", process.fork),
    ]
