"""Rows in 8-bit floats with a scale each, in one pass; see ../README.md."""
