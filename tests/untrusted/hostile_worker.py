"""Reads changed files of one form, watched: `python hostile_worker.py FORM FIRST COUNT FOLDER`.

A line "@ NUMBER" before each, so that who has started it knows which one crashes or does not end; at the end one line
of JSON: how many were read and how many refused, and what went wrong otherwise, by number.
"""

import ctypes
import gc
import json
import os
import pathlib
import resource
import shutil
import struct
import sys
import tempfile
import traceback
import warnings

MEMORY = 1 << 30
# Of files outside and of code; the file systems that native libraries look at are seen by the canary alone.
_CODE = (
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen", "pickle.find_class",
    "socket.connect", "socket.bind", "socket.getaddrinfo", "urllib.Request", "code.__new__", "marshal.loads",
)  # fmt: skip
_CHANGING = (
    "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.truncate",
    "shutil.move", "shutil.rmtree", "shutil.copyfile",
)  # fmt: skip
_TENSORFLOWS = "__autograph_generated_file"  # which it removes when the process ends
_LIBRARIES = (sys.prefix, sys.base_prefix, "/proc", "/sys", str(pathlib.Path(__file__).resolve().parents[2]))
_WATCHED = 0x00000FFF  # all that inotify tells
_NONBLOCKING = 0o4000


class Watch:
    """Sees code that runs, and files that are touched outside of a folder, while it is on."""

    def __init__(self, inside: pathlib.Path, canary: pathlib.Path):
        self.inside = str(inside.resolve())
        self.on, self.seen = False, []
        self._libc = ctypes.CDLL(None)
        self._events = self._libc.inotify_init1(_NONBLOCKING)
        if self._libc.inotify_add_watch(self._events, os.fsencode(canary), _WATCHED) < 0:
            raise OSError("inotify does not watch the canary")
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple) -> None:
        if not self.on:
            return
        if event in _CODE:
            if event != "marshal.loads" or not self._imports():
                self.seen.append(f"{event}{args[:1]!r}"[:300])
        elif event == "open" and isinstance(args[0], str | bytes):
            path = os.path.abspath(os.fsdecode(args[0]))
            mode = args[1] if isinstance(args[1], str) else "w" if (args[2] or 0) & 3 else "r"
            if set(mode) & set("wax+") and not self._allowed(path):
                self.seen.append(f"writes {path}")
            elif not self._allowed(path) and not path.startswith(_LIBRARIES):
                self.seen.append(f"reads {path}")
        elif event in _CHANGING and isinstance(args[0], str | bytes) and not self._allowed(os.path.abspath(args[0])):
            if event in ("os.remove", "os.rmdir") and args[1] != -1:
                return  # in an open folder, which was judged before
            if event == "os.link" and str(args[0]).startswith("/proc/self/fd/") and self._allowed(args[1]):
                return  # a file of its own without a name gets one
            self.seen.append(f"{event} {args[0]!r}")

    def _allowed(self, path: str | bytes) -> bool:
        return os.fsdecode(path).startswith((self.inside, "/dev/null"))

    @staticmethod
    def _imports() -> bool:
        frame = sys._getframe(2)
        return "importlib" in frame.f_code.co_filename

    def found(self) -> list[str]:
        """What was seen since the last call."""
        try:
            events = os.read(self._events, 65536)
        except BlockingIOError:
            events = b""
        while events:
            _, mask, _, size = struct.unpack("iIII", events[:16])
            name, events = events[16 : 16 + size].rstrip(b"\0"), events[16 + size :]
            if name:  # not the folder itself, which every import looks through
                self.seen.append(f"the canary was touched: {name.decode()}, {mask:#x}")
        seen, self.seen = self.seen, []
        return seen


def _memory() -> tuple[int, int]:
    """Bytes of memory now, and at most since it was asked last."""
    with open("/proc/self/status") as file:
        found = dict(line.split(":", 1) for line in file if line.startswith("Vm"))
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return tuple(int(found[name].split()[0]) << 10 for name in ("VmRSS", "VmHWM"))


def main(name: str, first: int, count: int, folder: pathlib.Path) -> None:
    import mutations

    canary = folder / "canary"
    canary.mkdir(exist_ok=True)
    (canary / "secret").write_text("a secret\n")
    (canary / "canary_module.py").write_text("def run(*args, **kwargs):\n    return None\n")
    mutations.CANARY = str(canary)

    import hostile_formats as formats

    if name.startswith(("keras", "savedmodel")):  # they read a file of settings when they are imported
        import keras  # noqa: F401
        import tf_keras  # noqa: F401

    form = formats.FORMATS[name]
    good = folder / f"good-{name}"
    if not good.exists():
        made = pathlib.Path(tempfile.mkdtemp(dir=folder))
        form.make(made)
        made.rename(good)
    seeds = sorted(good.iterdir())
    inside = pathlib.Path(tempfile.mkdtemp(prefix="work-", dir=folder))
    tempfile.tempdir = str(inside / "tmp")
    os.environ["TMPDIR"] = tempfile.tempdir
    os.mkdir(tempfile.tempdir)
    warnings.simplefilter("ignore")
    for seed in seeds:  # what is imported late is there then
        form.use(form.read(seed))
    sys.path.append(str(canary))  # after the good ones: importing the module would touch it

    from tfstruct.errors import TfstructError

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + 6 * MEMORY, now + 6 * MEMORY))  # for the machine's sake
    watch = Watch(inside, canary)
    watch.found()
    known = set(os.listdir(tempfile.tempdir))
    counts, wrong = {"read": 0, "refused": 0}, []
    for number in range(first, first + count):
        print("@", number, flush=True)
        place = inside / "now"
        place.mkdir()
        path = formats.changed(form, seeds, number, place)
        before = set(os.listdir(inside)), _memory()[0]
        watch.on = True
        made = None
        try:
            made = form.read(path)
            form.use(made)
            counts["read"] += 1
        except TfstructError as error:
            counts["refused"] += 1
            text = str(error)
            if "\n" in text:
                wrong.append((number, "more than a line", text[:300]))
            if form.names and made is None and not any(one in text for one in (path.name, path.stem)):
                wrong.append((number, "does not name the file", text[:300]))
            error = None
        except BaseException as error:
            if isinstance(error, SystemExit | KeyboardInterrupt):
                raise
            where = "".join(traceback.format_exception(error)[-6:])
            wrong.append((number, f"raises {type(error).__name__}", where[-1500:]))
            error = None
        finally:
            watch.on = False
        wrong += [(number, "reaches out", one) for one in watch.found()]
        most = _memory()[1] - before[1]
        if most > MEMORY:
            wrong.append((number, "takes memory", f"{most >> 20} MB"))
        if set(os.listdir(inside)) != before[0]:
            wrong.append((number, "leaves files", str(set(os.listdir(inside)) - before[0])))
        shutil.rmtree(place)
        left = set(os.listdir(tempfile.tempdir)) - known
        known |= left
        wrong += [(number, "leaves in the temporary folder", one) for one in left if not one.startswith(_TENSORFLOWS)]
        if number % 200 == 199 and "keras" in sys.modules:
            sys.modules["keras"].backend.clear_session()
            gc.collect()
        if len(wrong) >= 200:
            break
    shutil.rmtree(inside)
    print(json.dumps({**counts, "wrong": wrong}), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), pathlib.Path(sys.argv[4]))
