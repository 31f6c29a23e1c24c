"""Which type a profile's matrix products are in."""

from __future__ import annotations

from typing import Literal

import torch

ProfilePrecision = Literal["auto", "fp32", "bf16"]
"""auto: bf16 where the device multiplies it faster than fp32."""


def product_type(precision: ProfilePrecision, device: torch.device) -> torch.dtype | None:
    """bfloat16, or None for the type of the weights."""
    if precision == "auto":
        precision = "bf16" if has_fast_bf16(device) else "fp32"
    return torch.bfloat16 if precision == "bf16" else None


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the processor has instructions for it; elsewhere torch emulates it, slower than fp32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        known = torch.cpu.get_capabilities()
        return bool(known.get("avx512_bf16") or known.get("amx_bf16") or known.get("arm_bf16"))
    return False
