"""The ``fastlift`` command: a table of commands; each loads what it needs when it is called, so that ``fastlift --help`` is instant."""

from __future__ import annotations

import io
import os
import sys
import threading
import traceback
from contextlib import suppress
from importlib import import_module

from fastlift import __version__
from fastlift.commands import COMMANDS
from fastlift.errors import UserError, is_out_of_memory
from fastlift.settings.names import one_of
from fastlift.system import launcher
from fastlift.system.library_output import own_warnings_alone
from fastlift.system.machine.threads import prepare
from fastlift.system.printing import printable
from fastlift.system.signals import Signalled, StopSignals

# What several processes, started by torchrun, share; of the other commands the first process does all.
SHARED = ("train", "evaluate", "predict", "zero-shot", "import-lift", "soup")

EXAMPLES = """\
  fastlift train                                       a long-tailed set drawn on this machine, in a minute or two
  fastlift train --dataset imagenet_lt --data-root /data/imagenet --amp bf16
  fastlift evaluate RUN --tte fivecrop
  fastlift predict RUN photo.jpg folder/"""


def usage() -> str:
    """The text of ``fastlift --help``."""
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:<{width}}  {what}" for name, what in COMMANDS.items())
    return (
        "usage: fastlift COMMAND [options]     fastlift COMMAND --help tells its options\n\n"
        "Long-tailed image classification by lightweight fine-tuning of foundation models (LIFT, LIFT+).\n\n"
        f"commands:\n{listed}\n\nexamples:\n{EXAMPLES}"
    )


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Returns:
        0 done, 2 wrong use, 1 failed, 128 + N stopped by signal N.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    threading.excepthook = _quiet_about_files
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names need not be text: show their bytes, as stderr does
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = _answer(arguments)
    except BaseException as error:
        code = _tell(error)
    return _flushed(code)


def _answer(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"fastlift {__version__}")
        return 0
    prepare()  # before anything imports torch
    with own_warnings_alone():
        return _run(arguments) if launcher.processes() == 1 else _run_among_others(arguments)


def _flushed(code: int) -> int:
    """See that results reach stdout. Python would try at its very end, in words of its own and with exit code 120."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        code = code or _tell(error)
        with suppress(OSError):  # what could not be written is not tried again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _run(arguments: list[str]) -> int:
    name = one_of("command", arguments[0], COMMANDS)
    with StopSignals():
        result: int = import_module(f"fastlift.commands.{name.replace('-', '_')}").run(arguments[1:])
    return result


def _run_among_others(arguments: list[str]) -> int:
    """A command in one of several processes: the first alone prints results, and what ends them is told once."""
    if arguments[0] not in SHARED:
        return _run(arguments) if launcher.rank() == 0 else 0
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # that others have gone is told below, without torch's frames
    from fastlift.engine.processes import company, end_together

    if launcher.rank() != 0:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - as long as the process
    with company() as world:
        try:
            return _run(arguments)
        except (Exception, KeyboardInterrupt) as error:
            return end_together(world, error, _tell_all)


def _tell_all(error: BaseException, whose: str) -> int:
    """As ``_tell``, at once in any case: the other processes wait for it."""
    try:
        return _tell(error, whose)
    except BaseException:
        traceback.print_exc()
        return 1


def _tell(error: BaseException, whose: str = "") -> int:
    """Say what ended the command; gives its exit code.

    Args:
        whose: begins the message, where there are several processes.

    Raises:
        error: one that nobody has foreseen.
    """
    if isinstance(error, UserError):
        print(f"fastlift: {whose}{printable(str(error), lines=True)}", file=sys.stderr)
        return error.exit_code
    if isinstance(error, Signalled):
        print(f"fastlift: {error}: stopped", file=sys.stderr)
        return 128 + error.number
    if isinstance(error, BrokenPipeError):  # the reader of a pipe, such as head, has seen enough
        sys.stderr.close()
        return 0
    if isinstance(error, OSError):  # a full disk, a folder that cannot be written, a file that cannot be read
        told = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
        print(f"fastlift: {whose}{printable(told)}", file=sys.stderr)
        return 1
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):  # Python's own words
        print(
            f"fastlift: {whose}no more threads may be started here; raise the limit (ulimit -u, or the container's of processes), or "
            "end other programs",
            file=sys.stderr,
        )
        return 1
    if is_out_of_memory(error):
        print(f"fastlift: {whose}out of memory; try a smaller --micro-batch or --eval-batch\n{error}", file=sys.stderr)
        return 1
    raise error


def _quiet_about_files(error: threading.ExceptHookArgs) -> None:
    """No traceback where a library's thread (TensorBoard's) meets a full disk: the main thread meets it too, and tells."""
    if not issubclass(error.exc_type, OSError):
        threading.__excepthook__(error)
