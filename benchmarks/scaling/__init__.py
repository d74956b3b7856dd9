"""Several processes: what they cost on two cores, measured, and what they would cost on many GPUs, computed (docs/scaling.md)."""
