"""The one exception that stands for a user's mistake rather than a fault of the program, and the one warning."""


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
