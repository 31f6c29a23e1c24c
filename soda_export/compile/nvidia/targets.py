"""Which GPUs engines can be built for, and what must be at hand for it."""

from __future__ import annotations

from typing import Any

from soda_runtime.backends.cuda import device_target
from soda_runtime.errors import EngineError

from ...errors import CompileError
from ..options import EngineOptions
from .library import RTX, TENSORRT

CURRENT = "current"
_STRIPPED = "engines without weights are proved on the GPU while they are built"


def check_rtx_options(options: EngineOptions) -> None:
    """Raises CompileError for options that TensorRT-RTX cannot build with here."""
    _check_common(options)
    library = RTX.load()
    for target in options.target or (CURRENT,):
        if target != CURRENT and target.upper() not in library.ComputeCapability.__members__:
            listed = ", ".join(n.lower() for n in library.ComputeCapability.__members__ if n.startswith("SM"))
            raise CompileError(f"--target {target}: TensorRT-RTX {library.__version__} has none but {listed}")
    if len(set(options.target)) > 1 and CURRENT in options.target:
        raise CompileError("--target current: name the other targets alone, or current alone")
    if CURRENT in (options.target or (CURRENT,)):
        _current("name one with --target, e.g. --target sm89")
    if options.engine_weights == "stripped":
        _current(f"--engine-weights stripped: {_STRIPPED}; use baked or inputs")


def check_trt_options(options: EngineOptions) -> None:
    """Raises CompileError for options that TensorRT cannot build with here."""
    _check_common(options)
    TENSORRT.load()
    found = _current("TensorRT builds on the GPU that engines are for; --backend trt_rtx builds without one")
    for target in options.target:
        if target not in (CURRENT, found):
            raise CompileError(f"--target {target}: TensorRT builds for the GPU at hand only, which is {found}")


def resolve_targets(options: EngineOptions) -> tuple[str, ...]:
    """The targets by name, the current one's included."""
    targets = options.target or (CURRENT,)
    return tuple(sorted({device_target() if target == CURRENT else target for target in targets}))


def set_targets(library: Any, config: Any, options: EngineOptions) -> None:
    """Tell a TensorRT-RTX builder what to build for; TensorRT has no such call and builds for the GPU at hand."""
    if not hasattr(config, "set_compute_capability"):
        return
    targets: list[str] = sorted(set(options.target)) or [CURRENT]
    config.num_compute_capabilities = len(targets)
    for i, target in enumerate(targets):
        config.set_compute_capability(getattr(library.ComputeCapability, target.upper()), i)


def why_no_gpu() -> str:
    """Why engines cannot run on a GPU of this machine; "" where they can."""
    try:
        device_target()
    except EngineError as error:
        return str(error)
    return ""


def check_runs_here(options: EngineOptions) -> None:
    """Whether engines of these options run on this machine's GPU. Raises CompileError."""
    try:
        found = device_target()
    except EngineError as error:
        raise CompileError(f"no GPU at hand ({error})") from None
    if options.target and not {CURRENT, found} & set(options.target):
        raise CompileError(f"--target {' '.join(options.target)}: this machine's GPU is {found}")


def _current(remedy: str) -> str:
    try:
        return device_target()
    except EngineError as error:
        raise CompileError(f"no GPU at hand ({error}); {remedy}") from None


def _check_common(options: EngineOptions) -> None:
    if options.optimization_level is not None and not 0 <= options.optimization_level <= 5:
        raise CompileError(f"--optimization-level {options.optimization_level}: must be within 0 .. 5")
    if options.workspace is not None and not 0 < options.workspace < 1 << 20:
        raise CompileError(f"--workspace {options.workspace:g}: must be a number of GB above 0")
    if not 1 <= options.max_batch <= 1024:
        raise CompileError(f"--max-batch {options.max_batch}: must be within 1 .. 1024")
