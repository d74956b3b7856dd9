"""The two fused operations of LIFT, usable without fastlift: torch (and, on GPUs, triton) are all they need."""
