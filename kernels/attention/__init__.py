"""Self-attention of packed queries, keys and values; see README.md."""
