"""Where each backend runs which precision, and why not elsewhere."""

from __future__ import annotations

from ..errors import CompileError
from ..models.precision import Precision

DEVICES = {"ort": ("cpu", "cuda"), "openvino": ("cpu",), "trt": ("cuda",), "trt_rtx": ("cuda",)}
"""Backend -> the devices that its engines may be for."""
_NO_BF16 = "ONNX Runtime's CPU provider cannot run it"
_UNPACKED, _NO_SCALES = "would unpack it at every step", "has no scale for each token"
_UNABLE = {
    ("ort", "cpu", "bf16"): _NO_BF16,
    ("ort", "cuda", "int8"): "ONNX Runtime's int8 programs are for its CPU provider",
    **{
        (name, device, "int8-weights"): f"{name} {_UNPACKED}"
        for name in DEVICES if name != "openvino" for device in DEVICES[name]
    },
    **{(name, "cuda", "int8"): f"{name} {_NO_SCALES}" for name in ("trt", "trt_rtx")},
}  # fmt: skip


def why_unable(backend: str, device: str, precision: str) -> str:
    """Why a backend does not run that precision there, or not faster than others; "" where it does."""
    return _UNABLE.get((backend, device, precision), "")


def check_precision(backend: str, precision: Precision) -> None:
    """Refuse what a backend runs nowhere; one that is unknown is not refused here. Raises CompileError."""
    reasons = [why_unable(backend, device, precision) for device in DEVICES.get(backend, ())]
    if reasons and all(reasons):
        able = [name for name in ("openvino", "ort") if not why_unable(name, "cpu", precision)]
        raise CompileError(f"--precision {precision}: {reasons[0]}; add --backend {' or '.join(able)}")
