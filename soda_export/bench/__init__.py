"""Measure bundles: latency, realization, memory, error, opening, single operators."""

from .result import BenchOptions, BenchResult
from .run import bench_bundle

__all__ = ["BenchOptions", "BenchResult", "bench_bundle"]
