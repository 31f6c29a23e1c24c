"""The words of plan.json: what a step does with every site, read strictly and written as short as it goes."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import PlanError
from ..models.decisions import COMPUTE, IDLE, REUSE, is_skip
from ..models.identity import ModelIdentity
from ..models.spec import STACK

StepWord = Literal["compute", "reuse", "reuse1", "reuse2", "reuse_stack", "reuse_stack1", "reuse_stack2", "skip"]
"""What a whole step does: every site but the stack, or the stack; skip: the model is not called."""
SiteWord = Literal["compute", "reuse", "reuse1", "reuse2", "idle"]
"""What a site does; idle: a site that contains it is not computed."""
SiteOps = dict[str, list[int | SiteWord] | SiteWord]

_WORDS: dict[SiteWord, int] = {"compute": COMPUTE, "reuse": REUSE, "reuse1": -1, "reuse2": -2, "idle": IDLE}
_STACK_WORDS: dict[StepWord, int] = {"reuse_stack": REUSE, "reuse_stack1": -1, "reuse_stack2": -2}
_NAMES = {work: word for word, work in _WORDS.items()}


def write_step(model: ModelIdentity, work: NDArray[np.int64]) -> SiteOps | StepWord:
    """work: [K] -> one word where it says all, else an object by kind."""
    stack = list(model.kinds.get(STACK, ()))
    if is_skip(work.tolist()):
        return "skip"
    rest = np.delete(work, stack)
    if stack and work[stack[0]] != COMPUTE and (rest == IDLE).all():
        return next(word for word, order in _STACK_WORDS.items() if order == work[stack[0]])
    if rest.size and (rest == rest[0]).all() and (work[stack] == COMPUTE).all():
        word = _NAMES.get(int(rest[0]), "idle")
        if word != "idle":
            return word
    by_kind: SiteOps = {}
    for kind, numbers in model.kinds.items():
        given = work[list(numbers)]
        if kind != STACK or (given != COMPUTE).any():
            same = _NAMES.get(int(given[0])) if (given == given[0]).all() else None
            by_kind[kind] = same or [_NAMES.get(int(does), int(does)) for does in given]
    return by_kind


def read_step(model: ModelIdentity, step: int, ops: SiteOps | StepWord) -> NDArray[np.int64]:
    """The step's work, [K]. Raises PlanError, naming the step and the site."""
    work = np.full(len(model.names), COMPUTE, np.int64)
    if ops == "skip":
        work[:] = IDLE
        return work
    if isinstance(ops, str):
        if ops in _STACK_WORDS:
            if STACK not in model.kinds:
                raise PlanError(f"step {step}: {ops}: the model has no stack, but {', '.join(model.kinds)}")
            work[:] = IDLE
            work[list(model.kinds[STACK])] = _STACK_WORDS[ops]
        else:
            for kind, numbers in model.kinds.items():
                if kind != STACK:
                    work[list(numbers)] = _WORDS[ops]  # type: ignore[index]
        return work
    odd = sorted(ops.keys() - model.kinds.keys())
    if odd:
        raise PlanError(f"step {step}: unknown kind {odd[0]!r}; the model has {', '.join(model.kinds)}")
    for kind, numbers in model.kinds.items():
        if kind in ops:
            work[list(numbers)] = _read_kind(model, step, kind, ops[kind])
        elif kind != STACK:
            raise PlanError(f"step {step}: kind {kind!r} is missing")
    if STACK in ops and work[model.kinds[STACK][0]] != COMPUTE:
        work[[k for kind, numbers in model.kinds.items() if kind != STACK for k in numbers]] = IDLE
    return work


def _read_kind(
    model: ModelIdentity, step: int, kind: str, entry: list[int | SiteWord] | SiteWord
) -> int | list[int]:
    if isinstance(entry, str):
        return _WORDS[entry]
    numbers = model.kinds[kind]
    if len(entry) != len(numbers):
        raise PlanError(f"step {step}, {kind}: {len(entry)} entries for {len(numbers)} sites")
    for k, op in zip(numbers, entry, strict=True):
        tokens = model.site_tokens[k]
        if isinstance(op, int) and not 0 < op <= tokens:
            why = f' is outside 1 .. {tokens} tokens; use "reuse" for 0'
            if not tokens:
                why = ": its tokens cannot be renewed singly; use a word"
            raise PlanError(f"step {step}, {model.names[k]}: keep={op}{why}")
    return [_WORDS[op] if isinstance(op, str) else op for op in entry]
