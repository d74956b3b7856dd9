"""Files and folders that systems and programs leave beside images: they are no classes, and hold no images of a set."""

_NAMES = frozenset(
    {
        "__macosx",  # of archives that were packed on a Mac
        "thumbs.db",
        "desktop.ini",
        "$recycle.bin",
        "system volume information",
        "@eadir",  # of network storages
        "#recycle",
        "lost+found",
        "__pycache__",
    }
)


def is_leftover(name: str) -> bool:
    """Whether a file or folder of this name is passed over: hidden ones, and those of ``_NAMES`` in any case."""
    return name.startswith(".") or name.lower() in _NAMES
