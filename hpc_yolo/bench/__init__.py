"""Benchmarks of this package: timed work, records of it by commit, comparisons, and how runs scale over ranks."""
