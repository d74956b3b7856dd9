"""The data sets by name, one file each; ``catalogue`` lists them and loads one, and ``packed`` reads packs of any of them."""
