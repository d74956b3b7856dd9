"""Who follows a training: callbacks of users, and loggers for other people's services, which are callbacks too.

``callback`` is the protocol, ``calling`` calls them so that none of them can lose a run, ``background`` gives one a thread of
its own, ``loggers`` knows them by name: ``csv_file``, ``wandb_client``, ``mlflow_client``, ``trackio_client``. Imports
``errors`` and ``settings``, ``system``. Imported by ``config``, ``runs``, ``engine`` and ``soups``.
"""
