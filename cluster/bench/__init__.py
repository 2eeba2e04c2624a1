"""Benchmarks: a lean load generator, CPU and memory by process group, and the bare-SQL baseline."""
