"""Policies that decide while a run goes: each is rows for a wider sampler's state, signals, and rules.

In the order of processing: forms.py builds rows and signals over a named state, sada.py, easycache.py and misfit.py
make policies of it, adaptive.py is what they make; soda_runtime.automaton acts on it, here and in bundles.
"""

from .adaptive import PROGRAM_FILE, TABLES_FILE, AdaptivePolicy
from .catalog import POLICIES, PolicyName

__all__ = ["POLICIES", "PROGRAM_FILE", "TABLES_FILE", "AdaptivePolicy", "PolicyName"]
