"""LayerNorm for the MLP and the adapter branch in one pass over the residual stream; see README.md."""
