"""End-to-end benchmarks against the plain PyTorch way, alternated in one run; ``fastlift bench train|text``."""
