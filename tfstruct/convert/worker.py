"""The processes that run `child.py`: started, asked, and kept from one conversion to the next.

Loading TensorFlow takes longer than most conversions. So a process that has answered is kept for the next request of
this Python process. It is replaced when it has crashed, when it has grown, when it has answered many requests (what the
converter leaks stays in it), and when variables that TensorFlow reads have changed; it ends with this Python process.
"""

import atexit
import contextlib
import json
import os
import queue
import re
import subprocess
import sys
import tempfile
import threading

from tfstruct.forks import Lock, after_fork

_CHILD = os.path.join(os.path.dirname(__file__), "child.py")
# Two threads that convert by turns each find one.
_IDLE = 2
_REQUESTS = 200
_MEMORY = 2 << 30
# Variables that TensorFlow, Python and the loader read at the start.
_READ_AT_THE_START = ("TF_", "OMP_", "KMP_", "XLA_", "LD_", "PYTHON")
# Without oneDNN, whose allocator keeps what it once had: a float copy of the largest model that was converted.
_OWN_VARIABLES = {"CUDA_VISIBLE_DEVICES": "-1", "PYTHONUNBUFFERED": "1", "TF_ENABLE_ONEDNN_OPTS": "0"}

_lock = Lock()
_idle: "list[Worker]" = []


class Worker:
    """A process that answers one request at a time.

    Attributes:
        busy: whether a request is unanswered: nobody else may be given it.
    """

    def __init__(self):
        self.busy = False
        self._read = _environment()
        self._requests = self._memory = 0
        # Without a name: nothing of it is left, however this process ends.
        self._log = tempfile.TemporaryFile("w+b")  # noqa: SIM115
        self._log_start = 0
        self._process = subprocess.Popen(
            [sys.executable, _CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **_OWN_VARIABLES},
            text=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None  # both are pipes
        self._requests_of_process, self._answers_of_process = self._process.stdin, self._process.stdout
        self._answers: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_listen, args=(self._answers_of_process, self._answers), daemon=True).start()

    @property
    def number(self) -> int:
        """Of the process, as the operating system counts them."""
        return self._process.pid

    @property
    def usable(self) -> bool:
        """Whether the next request may go to it."""
        return (
            not self.busy
            and self._process.poll() is None
            and self._requests < _REQUESTS
            and self._memory < _MEMORY
            and self._read == _environment()
        )

    def ask(self, request: dict, timeout: float) -> dict | None:
        """The answer to a request; None when the process is gone.

        Raises:
            TimeoutError: there is none after `timeout` seconds.
        """
        self.busy = True
        self._log_start = os.fstat(self._log.fileno()).st_size
        self._requests += 1
        try:
            self._requests_of_process.write(json.dumps(request) + "\n")
            self._requests_of_process.flush()
            line = self._answers.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError from None
        except OSError:  # a pipe to a process that is gone
            return None
        if line is None:
            return None
        self.busy = False
        answer = json.loads(line)
        self._memory = answer["memory"]
        return answer

    def last_words(self) -> tuple[int, str]:
        """The exit status of a process that is gone, and what it said of the cause since the request."""
        status = self._process.wait()
        self._log.seek(self._log_start)
        lines = self._log.read().decode(errors="replace").splitlines()
        signs = [line.strip() for line in lines if re.search(r"error|fatal|check failed|abort", line, re.IGNORECASE)]
        return status, signs[-1][:300] if signs else ""

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._requests_of_process, self._answers_of_process, self._log):
            # A request that the process never read is still in the pipe's buffer.
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def start_ahead() -> None:
    """Starts a process if none waits, so that it loads TensorFlow while the caller exports the model."""
    give_back(take())


def take() -> Worker:
    """A process that waits for a request, or a new one."""
    with _lock.held():
        while _idle:
            worker = _idle.pop()
            if worker.usable:
                return worker
            worker.end()
    return Worker()


def give_back(worker: Worker) -> None:
    """Keeps a process for the next request, or ends it: in the middle of a request nobody else can use it."""
    with _lock.held():
        if worker.usable and len(_idle) < _IDLE:
            _idle.append(worker)
            return
    worker.end()


@atexit.register
def end_all() -> None:
    """Ends the processes that wait."""
    with _lock.held():
        while _idle:
            _idle.pop().end()


@after_fork
def _leave_all() -> None:
    """In a forked process: the workers are those of the parent, whose requests must not be mixed with ours."""
    _idle.clear()


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(_READ_AT_THE_START)}


def _listen(stream, answers: queue.Queue) -> None:
    for line in stream:
        answers.put(line)
    answers.put(None)
