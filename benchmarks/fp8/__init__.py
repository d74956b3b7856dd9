"""What ``--frozen fp8`` does to logits, gradients and accuracy, emulated on a CPU: see ``python -m benchmarks.fp8 --help``."""
