"""Benchmarks: ours against peers, limits and papers in the same run."""
