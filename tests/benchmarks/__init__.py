"""Tests of the benchmarks: their arguments, their checks and their files; nothing is timed in earnest."""
