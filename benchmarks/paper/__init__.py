"""The sweeps of the two papers, as commands: see ``python -m benchmarks.paper --help``."""
