"""stable-diffusion.cpp's step masks: `--scm-mask "1,1,0,1"`, 1 = compute, 0 = may be cached.

Read are the list alone, a command line that has it, and a request of its server with `scm_mask` (docs/caching.md and
examples/server/api.md in github.com/leejet/stable-diffusion.cpp). A cached step there does not run the model at all, so
it is skipped here, too.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from soda_runtime.strict_json import StrictJsonError, parse_json

from ...errors import PlanError
from ...models.decisions import COMPUTE, IDLE
from ...models.identity import ModelIdentity
from ..schedule import Schedule
from .ones import Ones, read_digits, read_ones

_KEY, _OPTION, _MODE = "scm_mask", "--scm-mask", "cache_mode"


def read_sd_cpp(content: bytes, model: ModelIdentity, steps: int, ones: Ones = "computed") -> Schedule:
    """Steps that compute everything, and steps that do not run the model. Raises PlanError."""
    text = content.decode(errors="replace")
    mask: Any = read_digits(text)
    if mask is None:
        mask = _of_request(text) if text.lstrip()[:1] in ("{", "[") else _of_command(text)
    computed = read_ones(mask, steps, _KEY, ones)
    return Schedule(np.repeat(np.where(computed, COMPUTE, IDLE)[:, None], len(model.names), axis=1))


def _of_command(text: str) -> Any:
    found = re.search(rf"{_OPTION}[\s=]+(\"[^\"]*\"|'[^']*'|\S+)", text)
    if not found:
        mode = re.search(r"--cache-mode[\s=]+(\S{1,40})", text)
        raise _no_mask(mode[1]) if mode else PlanError(f"expected a list like 1,1,0,1, or a command with {_OPTION}")
    return _of_word(found[1].strip("\"'"))


def _of_request(text: str) -> Any:
    try:
        value = parse_json(text.encode())
    except StrictJsonError as error:
        raise PlanError(str(error)) from None
    if isinstance(value, list):
        return value
    mask = value.get(_KEY)
    if not mask:
        raise _no_mask(value.get(_MODE, ""))
    return _of_word(mask) if isinstance(mask, str) else mask


def _of_word(text: str) -> Any:
    mask = read_digits(text)
    if mask is None:
        raise PlanError(f"{_KEY}: {text!r:.40} is not a list like 1,1,0,1")
    return mask


def _no_mask(mode: Any) -> PlanError:
    return PlanError(
        f"{_KEY} is missing: cache mode {mode!r:.40} decides at run time which steps to cache, and a plan is frozen; "
        "give the steps as a mask"
    )
