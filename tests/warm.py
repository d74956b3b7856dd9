"""Workers for torchrun that start in a moment: forked from a process that has imported what they would import.

torchrun starts ``python warm.py SOCKET RECORDS ARGUMENT...``, which loads next to nothing. It asks the warm process for a
child that does what ``elastic_worker.py RECORDS ARGUMENT...`` does, with its own environment and files, passes signals on to
it, and ends as it ends, by the same signal if one killed it. Where this process is killed, the warm one kills the child.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCONT)


@contextmanager
def warm(folder: Path) -> Iterator[Path]:
    """The socket of a warm process, which is ended with the block."""
    address = folder / "warm"
    with subprocess.Popen([sys.executable, __file__, str(address)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "warm\n"
            yield address
        finally:
            process.terminate()


def _serve(address: str) -> None:
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from importlib import import_module

    from several import PRELOADED

    for name in (*PRELOADED, "elastic_worker"):
        import_module(name)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen(64)
    print("warm", flush=True)
    chosen = selectors.DefaultSelector()
    chosen.register(listening, selectors.EVENT_READ)
    children: dict[int, socket.socket] = {}
    while True:
        for key, _ in chosen.select(0.02):
            if key.fileobj is listening:
                client, _ = listening.accept()
                pid = _fork(client, listening)
                children[pid] = client
                chosen.register(client, selectors.EVENT_READ, pid)
            elif key.data in children:  # the client has been killed
                with suppress(ProcessLookupError):
                    os.kill(key.data, signal.SIGKILL)
                chosen.unregister(key.fileobj)
        with suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                client = children.pop(found[0])
                with suppress(KeyError):
                    chosen.unregister(client)
                with suppress(OSError):
                    client.sendall(f"{os.waitstatus_to_exitcode(found[1])}\n".encode())
                client.close()


def _fork(client: socket.socket, listening: socket.socket) -> int:
    text, descriptors, _, _ = socket.recv_fds(client, 2**20, 3)
    asked = json.loads(text)
    pid = os.fork()
    if pid:
        for descriptor in descriptors:
            os.close(descriptor)
        client.sendall(f"{pid}\n".encode())
        return pid
    listening.close()
    client.close()
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    code = 1
    try:
        import torch
        from elastic_worker import main

        torch.set_num_threads(1)
        code = main(Path(asked["arguments"][0]), asked["arguments"][1:])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _ask(address: str, arguments: list[str]) -> int:
    server = socket.socket(socket.AF_UNIX)
    server.connect(address)
    asked = {"environment": dict(os.environ), "folder": os.getcwd(), "arguments": arguments}
    pids: list[int] = []
    early: list[int] = []

    def pass_on(number: int, frame: object) -> None:
        if not pids:
            early.append(number)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    for number in PASSED_ON:
        signal.signal(number, pass_on)
    socket.send_fds(server, [json.dumps(asked).encode()], [0, 1, 2])
    answers = server.makefile()
    pids.append(int(answers.readline()))
    for number in early:
        with suppress(ProcessLookupError):
            os.kill(pids[0], number)
    code = int(answers.readline())
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    if len(sys.argv) == 2:
        _serve(sys.argv[1])
    else:
        sys.exit(_ask(sys.argv[1], sys.argv[2:]))
