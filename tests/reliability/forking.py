"""A process that has loaded TensorFlow and forks a child for each job: loading takes seconds, a fork none.

`Forks` is the tests' side; as a program this file is the process. A job is a function of `jobs.JOBS`. A child may be
told to die: at its n-th event (a file opened for writing, renamed, removed, made; a training step; a process started),
some milliseconds after one, or after some seconds. Forking works as long as the process itself has computed nothing.
"""

import contextlib
import dataclasses
import json
import mmap
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).parent
STEP = "reliability.step"
_EVENTS = (
    "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "shutil.rmtree", "subprocess.Popen",
    "tempfile.mkdtemp", "tempfile.mkstemp", "sqlite3.connect", STEP,
)  # fmt: skip
_HELD = mmap.mmap(-1, 1)  # shared by parent and child: 1 while the child must not be killed


@dataclasses.dataclass(frozen=True)
class Kill:
    """When a child dies, and of what.

    Attributes:
        event: the number of the event, from 1.
        after: seconds after it.
        seconds: since the start, in place of an event.
        number: of the signal.
    """

    event: int | None = None
    after: float = 0.0
    seconds: float | None = None
    number: int = signal.SIGKILL

    def __str__(self) -> str:
        where = f"{self.seconds:.2f} s" if self.event is None else f"event {self.event}"
        return f"{where}{f' + {1000 * self.after:.1f} ms' if self.after else ''}"


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes:
        status: its exit status; below 0, the signal.
        events: how many there were; of a child that was killed, 0.
        seconds: that it took.
        outcome: what the job gave, where it ended.
        said: the last of what it wrote.
    """

    status: int
    events: int
    seconds: float
    outcome: dict | None
    said: str


class Forks(contextlib.AbstractContextManager):
    """The process, and a folder for its temporary files.

    Args:
        folder: for temporary files and caches.

    Attributes:
        warm: whether jobs get converter processes that have loaded TensorFlow, see `warm`.
    """

    warm = False

    def __init__(self, folder: pathlib.Path, **environment: str):
        self.folder = folder
        self.temporary = folder / "temporary"
        self.temporary.mkdir(parents=True)
        places = (HERE.parents[1], HERE.parent, HERE.parent / "callbacks", HERE, *sys.path)
        environment = {
            **os.environ, "TMPDIR": str(self.temporary), "XDG_CACHE_HOME": str(folder / "cache"),
            "TF_NUM_INTRAOP_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1",
            "RAY_TMPDIR": tempfile.gettempdir(),  # paths of sockets must be short
            "PYTHONPATH": os.pathsep.join(map(str, places)), **environment,
        }  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __exit__(self, *exc) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def run(self, job: str, folder: pathlib.Path, kill: Kill | None = None, **options) -> Ended:
        """A job in a folder, which is made where there is none."""
        folder.mkdir(parents=True, exist_ok=True)
        asked = {"job": job, "folder": str(folder), "log": str(self.folder / "log"), "options": options}
        asked["warm"] = self.warm
        asked["kill"] = None if kill is None else dataclasses.asdict(kill)
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the process that forks is gone"
        return Ended(**json.loads(line))


@contextlib.contextmanager
def not_killed():
    """Context manager: for what is not ours to keep whole."""
    _HELD[0] = 1
    try:
        yield
    finally:
        _HELD[0] = 0


def _serve(channel) -> None:
    import jobs
    import warm

    converters = None
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["warm"] and converters is None:
            converters = warm.ready()
        kill = None if asked["kill"] is None else Kill(**asked["kill"])
        _HELD[0] = 0
        read, write = os.pipe()
        started = time.monotonic()
        child = os.fork()
        if not child:
            os.close(read)
            status = 70
            try:
                if asked["warm"]:
                    warm.use(converters)
                status = _work(jobs.JOBS[asked["job"]], asked, kill, write)
            finally:
                os._exit(status)
        os.close(write)
        status = _waited(child, kill, started)
        with os.fdopen(read) as told:
            text = told.read()
        data = json.loads(text) if text else {"events": 0, "outcome": None}
        said = pathlib.Path(asked["log"]).read_text(errors="replace")[-3000:]
        answer = {**data, "status": status, "seconds": time.monotonic() - started, "said": said}
        channel.write(json.dumps(answer) + "\n")
        channel.flush()


def _waited(child: int, kill: Kill | None, started: float) -> int:
    """The exit status of a child, which is killed when its time has come and it may be."""
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if kill is not None and kill.seconds is not None and time.monotonic() - started > kill.seconds:
            os.kill(child, signal.SIGSTOP)
            _, status = os.waitpid(child, os.WUNTRACED)
            if not os.WIFSTOPPED(status):
                return os.waitstatus_to_exitcode(status)
            held = _HELD[0]
            if not held:
                os.kill(child, kill.number)
                kill = None
            os.kill(child, signal.SIGCONT)
        time.sleep(0.002)


def _work(job, asked: dict, kill: Kill | None, write: int) -> int:
    """In the child."""
    import traceback

    log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    count, struck = 0, False

    def strike(after: float) -> None:
        time.sleep(after)
        while _HELD[0]:
            time.sleep(1e-3)
        os.kill(os.getpid(), kill.number)

    def hook(event: str, args: tuple) -> None:
        nonlocal count, struck
        if struck or (event not in _EVENTS and not (event == "open" and _writes(args))):
            return
        count += 1
        if kill is None or kill.event is None or _HELD[0] or count < kill.event:
            return
        struck = True
        if kill.after == 0:
            os.kill(os.getpid(), kill.number)
        else:
            threading.Thread(target=strike, args=(kill.after,), daemon=True).start()

    sys.addaudithook(hook)
    try:
        outcome = job(pathlib.Path(asked["folder"]), **asked["options"])
    except BaseException:
        traceback.print_exc()
        return 1
    with os.fdopen(write, "w") as told:
        json.dump({"events": count, "outcome": outcome}, told)
    with contextlib.suppress(Exception):
        import atexit

        atexit._run_exitfuncs()  # what a process that ends by itself does
    return 0


def _writes(args: tuple) -> bool:
    """Whether an `open` is for writing: by its mode, or its flags."""
    path, mode, flags = args
    if not isinstance(path, str | bytes) or str(path).startswith(("/proc", "/dev")):
        return False
    return bool({*(mode or "")} & {*"wax+"}) or bool((flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


if __name__ == "__main__":
    sys.modules["forking"] = sys.modules["__main__"]  # `jobs` imports it by its name
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _serve(answers)
