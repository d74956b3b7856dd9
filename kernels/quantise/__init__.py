"""Rows in 8-bit floats with a scale each, also of a LayerNorm or an activation, in one pass; see README.md."""
