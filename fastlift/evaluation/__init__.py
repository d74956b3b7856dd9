"""A trained model and images: how good it is, and what it says of each.

``settings`` holds what the command line asks for, ``accumulator`` counts on the device, ``metrics`` makes figures of the
counts, ``validation`` says when a training is evaluated and which state is best, ``evaluate`` and ``predict`` pass
images through a model, ``per_image`` keeps what is said of each, ``thumbnails`` small copies of some. ``intervals`` and
``resampling`` say how far chance in the choice of the test images moves the figures.
Imports ``errors``, ``settings``, ``system``, ``data``, ``models`` and ``training``. Imported by
``advice``, ``config``, ``runs``, ``interop``, ``reporting``, ``engine``, ``soups`` and ``commands``.
"""
