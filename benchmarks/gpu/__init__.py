"""Everything that is meant for a GPU, run and timed by one command: ``python -m benchmarks.gpu --help``."""
