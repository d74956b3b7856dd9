"""One split as columns of paths, labels and sizes: read from lists and headers, checked, cached."""
