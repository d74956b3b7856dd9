"""A trained model and images: how good it is, and what it says of each.

``settings`` holds what the command line asks for, ``accumulator`` counts on the device, ``metrics`` makes figures of the counts,
``evaluate`` and ``predict`` pass images through a model. It imports ``training`` (of which only how several processes add up),
``models``, ``data`` and what stands before them; ``config``, ``runs``, ``interop``, ``engine`` and ``commands`` import it.
"""
