"""A run is a folder of plain files: written atomically, read without fastlift, resumed to the same bits.

``folder`` knows its files and its states, ``best`` which checkpoint was the best on a validation split, ``identity``
which run a file belongs to, ``train_state`` and ``checkpoints`` what training goes on from, ``metrics_log`` (its
lines: ``events``) and ``bad_images`` the lists that grow, ``split_lists`` splits that were cut,
``predictions`` what is said of each test image, ``stored`` the checks of its JSON, ``claims`` the lock on the folder,
``replacing`` how a new run takes an old one's place. Imports ``errors``, ``settings``,
``system``, ``data``, ``models``, ``training``, ``evaluation``, ``advice``, ``callbacks`` and ``config``. Imported by ``reporting``, ``engine``, ``soups`` and ``commands``.
"""
