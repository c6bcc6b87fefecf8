"""Measurements: run them from a checkout, on a machine that does nothing else."""
