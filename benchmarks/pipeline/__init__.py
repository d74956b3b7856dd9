"""Measurements of the data path; ``python -m benchmarks.pipeline --help``."""
