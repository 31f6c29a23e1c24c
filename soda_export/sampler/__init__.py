"""The frozen sampler. `freeze_sampler` turns a name and a model's scheduler config into a table of affine maps.

In the order of processing: scheduler.py builds the diffusers scheduler or refuses it, probe.py measures what each of
its steps does, table.py holds the result, step.py is the arithmetic that a step program contains; memory.py lets a
table remember predictions, lagrange.py clean samples, fit.py fits it to a schedule; starts.py probes how it starts at a
step from given latents, levels.py how noisy those are at each step, inpaint.py keeps what lies outside a mask.
"""

from .fit import FittingSampler, least_squares
from .inpaint import KNOWN, KnownRegion, advance_known, levels_after, starts_with_known, with_known
from .lagrange import lagrange_weights, with_nodes
from .levels import Levels, levels_of, preview_levels, training_betas
from .memory import MEMORY, MOST_STATE, Fill, can_skip, check_fills, check_skips, hold, with_memory
from .scheduler import SAMPLERS, make_scheduler, own_sampler
from .starts import Starts, freeze_starts
from .step import advance_state, guide
from .table import SamplerTable, Stepper, freeze_sampler, widened_rows

__all__ = [
    "KNOWN", "MEMORY", "MOST_STATE", "SAMPLERS", "Fill", "FittingSampler", "KnownRegion", "Levels", "SamplerTable",
    "Starts", "Stepper", "advance_known", "advance_state", "can_skip", "check_fills", "check_skips", "freeze_sampler",
    "freeze_starts", "guide", "hold", "lagrange_weights", "least_squares", "levels_after", "levels_of",
    "make_scheduler", "own_sampler", "preview_levels", "starts_with_known", "training_betas", "widened_rows",
    "with_known", "with_memory", "with_nodes",
]  # fmt: skip
