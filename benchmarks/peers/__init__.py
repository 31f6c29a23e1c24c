"""The parts of benchmarks/peers.py: models and plans to play, one file for each kind of system, processes, figures."""
