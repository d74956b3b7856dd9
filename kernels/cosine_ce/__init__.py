"""A normalised classifier and its cross-entropy in one op; see README.md."""
