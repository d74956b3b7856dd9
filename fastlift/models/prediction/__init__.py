"""What a model says of images that are at hand: PIL images, arrays, tensors, files, folders, loaders.

``result`` is what comes out, ``inputs`` finds the images in what a user gives, ``preparation`` makes the model's input of
one, and ``predicting`` passes them through the model, batch by batch. For files by the million, shared by processes, see
``engine.predict``.
"""
