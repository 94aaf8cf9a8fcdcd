"""Converter processes that are forked from one that has loaded TensorFlow, in place of new ones: a job that is killed
fifty times waits for fifty fewer. What runs in them, and when they end, is the same.
"""

import contextlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import types


class Started:
    """As `subprocess.Popen` of `tfstruct.convert.worker`: a process with pipes, forked by the other side of `ask`."""

    def __init__(self, ask: socket.socket, command: list[str], stderr, env: dict[str, str]):
        sys.audit("subprocess.Popen", command[0], command, None, None)  # a moment at which a job may be killed
        (theirs_in, self._in), (self._out, theirs_out), (self._status, status) = os.pipe(), os.pipe(), os.pipe()
        given = [theirs_in, theirs_out, stderr.fileno(), status]
        asked = json.dumps({"script": command[1], "env": env, "parent": os.getpid()}).encode()
        socket.send_fds(ask, [asked], given)
        for one in (theirs_in, theirs_out, status):
            os.close(one)
        self.stdin, self.stdout = os.fdopen(self._in, "w"), os.fdopen(self._out)
        self._told = os.fdopen(self._status, "r")
        self.pid, self.returncode = int(self._told.readline()), None

    def poll(self) -> int | None:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return self.wait()
        return None

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = int(self._told.readline() or -signal.SIGKILL)
        return self.returncode

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def ready() -> socket.socket:
    """Forks the process that forks, which ends with the caller; what to ask it by."""
    ask, answer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if not os.fork():
        ask.close()
        import tensorflow.lite.python.lite  # noqa: F401

        while True:
            asked, given, _, _ = socket.recv_fds(answer, 1 << 20, 4)
            if not asked:
                os._exit(0)
            _start(json.loads(asked), given)
    answer.close()
    return ask


def _start(asked: dict, given: list[int]) -> None:
    number = os.fork()
    if number:
        os.write(given[3], f"{number}\n".encode())
        for one in given[:3]:
            os.close(one)
        threading.Thread(target=_wait, args=(number, given[3]), daemon=True).start()
        return
    for place, one in enumerate(given[:3]):
        os.dup2(one, place)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
    os.environ.clear()
    os.environ.update(asked["env"])
    # It ends when the process that asked for it is gone.
    os.getppid = lambda: asked["parent"] if os.path.exists(f"/proc/{asked['parent']}") else 1
    status = 1
    try:
        runpy.run_path(asked["script"], run_name="__main__")
        status = 0
    finally:
        os._exit(status)


def _wait(number: int, status: int) -> None:
    _, ended = os.waitpid(number, 0)
    with contextlib.suppress(BrokenPipeError):
        os.write(status, f"{os.waitstatus_to_exitcode(ended)}\n".encode())
    os.close(status)


def use(ask: socket.socket) -> None:
    """From now on this process gets its converter processes from there."""
    from tfstruct.convert import worker

    def start(command, *, stdin, stdout, stderr, env, text):
        return Started(ask, command, stderr, env)

    worker.subprocess = types.SimpleNamespace(Popen=start, PIPE=subprocess.PIPE)
