"""What fastlift asks of the machine that it runs on, and how it writes, stops and tells.

``machine`` (processor, memory, limits of containers, GPUs; without torch) is the one place that asks the system; ``device``,
``cuda`` and ``memory`` say what a run computes on, why not on a GPU, and what fits; ``settings`` holds their flags. ``files``
and ``sealed`` are every file that is written, ``signals``, ``launcher`` and ``library_output`` what comes from outside the
program, ``hub`` gets files of the Hugging Face hub, ``progress`` and ``printing`` are what goes to people. Imports ``errors``
and ``settings``. Imported by ``data``, ``models``, ``training``, ``evaluation``, ``callbacks``, ``config``, ``runs``,
``interop``, ``reporting``, ``engine``, ``soups``, ``serving``, ``bench``, ``doctor``, ``commands`` and ``cli``.
"""
