"""What training computes: the loss, one optimiser step, the classifier init, and what several processes add up.

``settings`` holds what the command line asks for, ``losses`` the losses, ``step`` the step with the ``finite`` watch over
it, ``optimizers`` and ``learning_rate`` what it updates by, ``captured`` the step in CUDA graphs, ``classifier_init`` the
weights that a classifier may start from, ``distributed`` the collectives, ``reducer`` what a step adds up by them,
``class_shards`` the classifier split by class with its ``split_losses``. The loop around the step is ``engine``'s. Imports
``errors``, ``settings``, ``system``, ``data`` and ``models``. Imported by ``evaluation``, ``config``, ``runs``,
``interop``, ``engine``, ``soups`` and ``bench``.
"""
