"""Policies that decide while a run goes: each is rows for a wider sampler's state, signals, and rules.

In the order of processing: options.py is what is asked for, catalog.py has the names; forms.py builds rows and signals
over a named state, sada.py, easycache.py and misfit.py make policies of it, adaptive.py is what they make and file.py
keeps; soda_runtime.automaton acts on it, here and in bundles. search/gate.py calibrates.
This page imports nothing: help pages read options.py without torch.
"""
