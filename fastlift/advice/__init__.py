"""Where to spend: mathematics of what a run's record tells about its classes and its data. Knows no run and no model.

``ranking`` says which classes cost most, ``near_duplicates`` finds images that two splits share (tried on what ``altered`` makes),
``label_doubts`` labels that look wrong (tried on planted ones), ``learning_curves``, ``power_law`` and ``gains`` what more images bring
(tried on subsets), the last two with the classifier of ``probe``. ``sampling`` says which images are looked at where there are too
many, ``record`` what an advice holds. ``engine.advise`` puts it
together. Imports ``errors``, ``settings``, ``models`` and ``evaluation``. Imported by ``runs``, ``reporting``, ``engine`` and ``commands``.
"""
