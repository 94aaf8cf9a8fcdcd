"""Files and folders: written whole or not at all, and nothing is left of a process that was killed."""

import errno
import glob
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time

import pytest

from tfstruct import files
from tfstruct.files import FolderLock, TemporaryFolder, clear_parts, folder_atomic, write_atomic
from tfstruct.forks import Lock
from tfstruct.graph import new_shapes
from tfstruct.keras_internals import recorded_calls, replacing


def killed(script: str, folder: pathlib.Path) -> None:
    """Runs a script until it says that it is ready, and kills it then."""
    script = f"import time\nfrom tfstruct import files\n{script}\nprint('ready', flush=True)\ntime.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=folder, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_write_a_new_file(tmp_path):
    write_atomic(tmp_path / "a.tflite", b"new")
    assert (tmp_path / "a.tflite").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.tflite"]


def test_write_over_an_old_file(tmp_path):
    (tmp_path / "a.tflite").write_bytes(b"the old and longer one")
    write_atomic(str(tmp_path / "a.tflite"), b"new")
    assert (tmp_path / "a.tflite").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.tflite"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()])
@pytest.mark.parametrize("old", [b"old", None])
def test_a_failed_write_leaves_the_old_file(monkeypatch, tmp_path, step, error, old):
    path = tmp_path / "a.tflite"
    if old:
        path.write_bytes(old)

    def fail(*args):
        # The new content lies beside the target, not in it.
        assert len([f for f in os.listdir(tmp_path) if f.endswith(".part")]) == 1
        raise error

    monkeypatch.setattr(files.os, step, fail)
    with pytest.raises(type(error)):
        write_atomic(path, b"new")
    monkeypatch.undo()
    assert os.listdir(tmp_path) == (["a.tflite"] if old else [])
    assert not old or path.read_bytes() == old


def test_write_into_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "missing" / "a.tflite", b"new")
    assert os.listdir(tmp_path) == []


HALF_WRITTEN = """
files.os.replace = lambda *paths: print('ready', flush=True) or time.sleep(60)
files.write_atomic('a.tflite', b'half')
"""


def test_what_a_killed_process_left_beside_a_file_goes(tmp_path):
    killed(HALF_WRITTEN, tmp_path)
    (left,) = os.listdir(tmp_path)
    assert left.startswith("a.tflite.") and left.endswith(".part")
    write_atomic(tmp_path / "a.tflite", b"new")
    assert os.listdir(tmp_path) == ["a.tflite"]


def test_what_another_process_writes_stays(tmp_path):
    other = tmp_path / "a.tflite.1-1.part"
    with open(other, "wb") as file:
        files._lock(file.fileno())
        write_atomic(tmp_path / "a.tflite", b"new")
        assert sorted(os.listdir(tmp_path)) == ["a.tflite", other.name]


def test_half_written_files_of_a_folder_go(tmp_path):
    (tmp_path / "inner").mkdir()
    for name in ("a.json.1-1.part", "inner/model.part.keras", "inner/model.keras", "party"):
        (tmp_path / name).write_bytes(b"x")
    clear_parts(tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["inner", "model.keras", "party"]


def test_a_folder_is_of_one_run_at_a_time(tmp_path):
    first = FolderLock(tmp_path)
    with pytest.raises(BlockingIOError, match="in use"):
        FolderLock(tmp_path)
    first.release()
    assert os.listdir(tmp_path) == []
    FolderLock(tmp_path).release()


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    killed("held = files.FolderLock('.')", tmp_path)
    FolderLock(tmp_path).release()
    assert os.listdir(tmp_path) == []


def test_the_temporary_folder_of_a_killed_process_goes(temporary):
    killed("held = files.TemporaryFolder('convert'); open(held.path + '/big', 'w').close()", temporary)
    left, lock = sorted(os.listdir(temporary))
    assert left.startswith("tfstruct-convert-") and lock == f"{left}.lock"
    (temporary / "tfstruct-not-ours").mkdir()
    with TemporaryFolder() as path:
        name = os.path.basename(path)
        assert {name, f"{name}.lock", "tfstruct-not-ours"} == set(os.listdir(temporary))
        with TemporaryFolder() as another:  # those of processes that live stay
            assert os.path.isdir(path) and another != path
    assert os.listdir(temporary) == ["tfstruct-not-ours"]


def test_a_folder_is_whole_or_not_there(tmp_path):
    target = tmp_path / "made"
    with pytest.raises(KeyboardInterrupt), folder_atomic(target) as beside:
        pathlib.Path(beside, "a").write_text("half")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []
    killed("with files.folder_atomic('made') as beside: print('ready', flush=True); time.sleep(60)", tmp_path)
    assert len(os.listdir(tmp_path)) == 2  # the folder beside the target, and its lock
    with folder_atomic(target) as beside:
        pathlib.Path(beside, "a").write_text("whole")
    assert os.listdir(tmp_path) == ["made"] and os.listdir(target) == ["a"]
    with pytest.raises(FileExistsError, match="Expected a new or an empty folder"), folder_atomic(target):
        raise AssertionError("it is not begun")


@pytest.mark.parametrize("links", [True, False], ids=["files without a name", "a file system without them and links"])
def test_nothing_is_taken_for_a_left_over_before_it_is_locked(monkeypatch, temporary, links):
    real = files._lock

    def lock(number):  # what another process does at its worst moment
        files._clear_folders(f"{temporary}/*.lock")
        files._clear(glob.glob(f"{temporary}/*.part"))
        return real(number)

    def no_link(*paths, **options):
        raise PermissionError

    monkeypatch.setattr(files, "_lock", lock)
    if not links:
        monkeypatch.setattr(os, "link", no_link)
    with files.TemporaryFolder("worst") as folder:
        assert os.listdir(folder) == []
    assert os.listdir(temporary) == []
    write_atomic(temporary / "a.tflite", b"new")
    assert os.listdir(temporary) == ["a.tflite"]


@pytest.mark.parametrize("call", ["mkdir", "rmdir", "remove", "link"])
def test_a_process_that_is_killed_while_a_temporary_folder_is_made_or_removed(temporary, call):
    """Between two steps of it: whatever there is by then, the next folder clears it away."""
    script = f"""
import os, shutil
def die(*args, **options):
    print('ready', flush=True); time.sleep(60)
def go():
    with files.TemporaryFolder('convert') as folder:
        open(folder + '/big', 'w').close()
os.{call} = die
shutil.rmtree = (lambda real: die if {call!r} == 'rmdir' else real)(shutil.rmtree)
go()
"""
    killed(script, temporary)
    with TemporaryFolder():
        pass
    assert os.listdir(temporary) == []


def test_a_working_folder_whose_first_run_was_killed_at_once(tmp_path):
    from tfstruct.compression.folder import WorkingFolder

    (tmp_path / "manifest.json.1-1.part").write_bytes(b"{")
    WorkingFolder.open(tmp_path, {"a": 1}).close()
    assert os.listdir(tmp_path) == ["manifest.json"]


def test_a_forked_process_has_neither_the_locks_nor_the_folders_of_its_parent(temporary):
    folder, held = TemporaryFolder(), FolderLock(temporary)
    child = os.fork()
    if not child:
        folder.remove()
        held.release()
        time.sleep(60)
        os._exit(0)
    time.sleep(0.2)
    assert os.path.isdir(folder.path) and os.path.isfile(held.path)
    held._file.close()  # as when this process is killed
    FolderLock(temporary).release()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    folder.remove()
    assert os.listdir(temporary) == []


def test_what_others_write_is_whole_or_not_there(tmp_path):
    target = tmp_path / "a.keras"
    target.write_bytes(b"old")
    with pytest.raises(OSError, match=r"No space left on device: .*/a\.keras'"), files.file_atomic(target) as beside:
        assert beside.endswith(".part.keras")
        pathlib.Path(beside).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert os.listdir(tmp_path) == ["a.keras"] and target.read_bytes() == b"old"
    killed("with files.file_atomic('a.keras') as beside: print('ready', flush=True); time.sleep(60)", tmp_path)
    assert len(os.listdir(tmp_path)) == 2
    with files.file_atomic(target) as beside:
        pathlib.Path(beside).write_bytes(b"new")
    assert os.listdir(tmp_path) == ["a.keras"] and target.read_bytes() == b"new"


def test_a_removal_that_a_signal_interrupts_is_done_again(temporary, monkeypatch):
    removing, interrupted = files.shutil.rmtree, []

    def remove(*args, **kwargs):
        if not interrupted:
            interrupted.append(args)
            raise KeyboardInterrupt
        removing(*args, **kwargs)

    monkeypatch.setattr(files.shutil, "rmtree", remove)
    with pytest.raises(KeyboardInterrupt), TemporaryFolder() as path:
        (pathlib.Path(path) / "file").write_text("of it")
    assert interrupted and not list(temporary.glob("tfstruct-*"))


LOCKS = {
    "plain": Lock(), "reentrant": Lock(reentrant=True), "replacing": replacing._lock, "recorded": recorded_calls._LOCK,
    "shapes": new_shapes._lock,
}  # fmt: skip


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("lock", LOCKS.values(), ids=LOCKS)
def test_a_lock_that_a_thread_holds_is_free_in_a_forked_process(lock):
    held, done = threading.Event(), threading.Event()

    def hold():
        with lock.held():
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    process = os.fork()
    if not process:
        signal.alarm(5)  # it waits for ever otherwise
        with lock.held():
            os._exit(7)
    done.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 7
    with lock.held():
        pass
