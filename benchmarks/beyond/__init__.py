"""What LIFT's successors change: ``python -m benchmarks.beyond --help``."""
