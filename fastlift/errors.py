"""The exception that stands for a user's mistake rather than a fault of the program, want of memory, and the one warning."""


class FastliftWarning(UserWarning):
    """Something that the user should know and that stops nothing; the command line prints its message alone."""


class UserError(ValueError):
    """Wrong use or unusable input, with a message that says what was expected and what to do.

    The command line prints the message without a traceback and exits with ``exit_code``:
    2 for wrong use (the default), 1 where the work itself failed.
    """

    def __init__(self, message: str, *, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class OutOfMemory(UserError):
    """Memory ran out in the work itself; the message says at which size, and which to try."""

    def __init__(self, message: str) -> None:
        super().__init__(message, exit_code=1)


def is_out_of_memory(error: BaseException) -> bool:
    """On a GPU; in torch's allocator for CPUs, which has no kind of its own; or in NumPy or Python."""
    is_torchs = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return is_torchs or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
