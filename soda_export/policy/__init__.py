"""Policies that decide while a run goes: each is rows for a wider sampler's state, signals, and rules.

In the order of processing: options.py is what is asked for, catalog.py has the names; forms.py builds rows and signals
over a named state, sada.py, easycache.py and misfit.py make policies of it, adaptive.py is what they make and file.py
keeps; soda_runtime.automaton acts on it, here and in bundles. search/gate.py calibrates.
"""

from .adaptive import PROGRAM_FILE, TABLES_FILE, AdaptivePolicy
from .catalog import POLICIES, PolicyName
from .file import read_policy, write_policy
from .options import PolicyOptions

__all__ = [
    "POLICIES", "PROGRAM_FILE", "TABLES_FILE", "AdaptivePolicy", "PolicyName", "PolicyOptions", "read_policy",
    "write_policy",
]  # fmt: skip
