"""A data set as a few tar files: ``packed`` is their format, ``pack`` writes them."""
