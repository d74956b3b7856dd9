"""A ViT's MLP with frozen weights, its residual added; see README.md."""
