"""Benchmarks against other libraries and lower bounds; the latest results are in `RESULTS.md`."""
