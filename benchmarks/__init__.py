"""Benchmarks: speed, memory and exactness, beside alternatives in the same run."""
