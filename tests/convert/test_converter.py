"""The converter process: crashes, hangs and unsupported operators come back as one clear error."""

import concurrent.futures
import logging
import os
import shutil
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo

import tfstruct
from tfstruct.convert import child as child_module
from tfstruct.convert import tflite, worker
from tfstruct.convert.converter import ConverterProcess
from tfstruct.errors import ConversionError


@pytest.fixture
def child(monkeypatch, tmp_path):
    """Puts another script in the place of the child."""
    worker.end_all()

    def put(code):
        path = tmp_path / "child.py"
        path.write_text(code)
        monkeypatch.setattr(worker, "_CHILD", str(path))

    yield put
    worker.end_all()


# Answers as the child does, without TensorFlow: with what it was asked, and a line of its own.
ECHO = """
import json, os, sys
for line in sys.stdin:
    request = json.loads(line)
    with open(request["target"], "w") as file:
        file.write(str(os.getpid()))
    print("error of", request["directory"], file=sys.stderr, flush=True)
    if request["directory"] == "crash":
        os.abort()
    print(json.dumps({"ok": True, "memory": int(request["signature"])}), flush=True)
"""


def _gone(number: int) -> bool:
    for _ in range(100):
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_a_crash_is_one_error_and_the_next_request_starts_afresh(child):
    child(
        "import os, sys\nsys.stdin.readline()\nprint('Check failed: boom', file=sys.stderr, flush=True)\nos.abort()\n"
    )
    with ConverterProcess() as process:
        for _ in range(2):
            with pytest.raises(ConversionError, match=r"crashed \(exit status -6\): Check failed: boom") as error:
                process.convert("nowhere", "serve")
            assert "unroll=True" in str(error.value)


@pytest.mark.parametrize(
    "how",
    ["os.kill(os.getpid(), 9)", "print('terminate: std::bad_alloc, an error', file=sys.stderr, flush=True); os.abort()",
     "print('{\"ok\": false, \"memory\": 0, \"error\": \"MemoryError: \"}', flush=True)"],
    ids=["killed", "C++", "Python"],
)  # fmt: skip
def test_a_process_without_memory_says_so(child, how):
    child(f"import os, sys\nsys.stdin.readline()\n{how}\n")
    with (
        ConverterProcess() as process,
        pytest.raises(ConversionError, match="It was out of memory, or was killed: end"),
    ):
        process.convert("nowhere", "serve")


def test_a_temporary_folder_that_goes_away_is_named(child):
    child("""
import json, sys
error = "OSError: SavedModel file does not exist at: " + json.loads(sys.stdin.readline())["target"]
print(json.dumps({"ok": False, "memory": 0, "error": error}), flush=True)
""")
    with ConverterProcess() as process:
        shutil.rmtree(process.folder)
        with pytest.raises(ConversionError, match=r"does not exist at: .*tfstruct-convert-.*TMPDIR names another"):
            process.convert("a", "0")
        with pytest.raises(ConversionError, match=r"No such file .*tfstruct-convert-.*TMPDIR names another"):
            process.load(b"file")


def test_a_hang_is_stopped(child):
    child("import time\ntime.sleep(600)\n")
    with ConverterProcess(timeout=0.5) as process:
        number = worker._idle[0].number
        with pytest.raises(ConversionError, match=r"did not finish within 0.5 s.*--timeout"):
            process.convert("nowhere", "serve")
        assert _gone(number)


def test_a_process_that_dies_before_the_request(child):
    child("raise SystemExit(3)\n")
    with ConverterProcess() as process, pytest.raises(ConversionError, match="exit status 3"):
        process.convert("nowhere", "serve")


def test_the_process_stays_and_the_folder_does_not(child):
    child(ECHO)
    folders, numbers = [], []
    for _ in range(3):
        with ConverterProcess() as process:
            folders.append(process.folder)
            numbers += [process.convert("a", "0"), process.convert("b", "0")]
    assert len(set(numbers)) == 1
    assert len(set(folders)) == 3 and not any(map(os.path.exists, folders))
    worker.end_all()
    assert _gone(int(numbers[0]))


def test_a_crash_says_what_was_said_since_the_request(child):
    child(ECHO)
    with ConverterProcess() as process:
        first = process.convert("a", "0")
        with pytest.raises(ConversionError, match=r"exit status -6\): error of crash\."):
            process.convert("crash", "0")
        assert process.convert("a", "0") != first


@pytest.mark.parametrize("why", ["grown", "many requests", "other variables"])
def test_a_process_is_replaced(child, monkeypatch, why):
    child(ECHO)
    monkeypatch.setattr(worker, "_REQUESTS", 3)
    with ConverterProcess() as process:
        first = process.convert("a", str(4 << 30 if why == "grown" else 1 << 20))
        if why == "many requests":
            assert first == process.convert("a", "0") == process.convert("a", "0")
        if why == "other variables":
            monkeypatch.setenv("PYTHONHASHSEED", "7")
        assert process.convert("a", "0") != first
    assert _gone(int(first))


def test_threads_do_not_mix_their_requests(child):
    child(ECHO)

    def convert(i: int) -> bytes:
        with ConverterProcess() as process:
            return process.convert(str(i), "0")

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        numbers = list(threads.map(convert, range(24)))
    assert len(numbers) == 24
    assert len(worker._idle) <= 2


SCRIPT = """
import os, sys
from tfstruct.convert import worker
from tfstruct.convert.converter import ConverterProcess
worker._CHILD = sys.argv[1]
with ConverterProcess() as process:
    print(process.convert("a", "0").decode(), flush=True)
    if sys.argv[2] == "forked":
        parent, (reading, writing) = os.getpid(), os.pipe()
        if not os.fork():
            os.write(writing, process.convert("a", "0"))
            worker.end_all()
            os._exit(0)
        os.wait()
        assert os.read(reading, 20) != process.convert("a", "0")
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("how", ["ends", "killed", "forked"])
def test_it_ends_with_this_process(tmp_path, how):
    (tmp_path / "child.py").write_text(ECHO)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, tmp_path / "child.py", how], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == (-9 if how == "killed" else 0), done.stderr
    assert _gone(int(done.stdout))


def test_it_ends_in_the_middle_of_a_conversion_with_this_process(tmp_path):
    """The script itself notices: nothing is read from the pipe while it converts."""
    parent = (
        "import subprocess, sys\n"
        "code = 'import os, time, tfstruct.convert.child as child; print(os.getpid(), flush=True); '"
        "'child._end_with_parent(os.getppid())'\n"
        "started = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)\n"
        "print(started.stdout.readline(), flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, timeout=60)
    assert _gone(int(done.stdout))


def test_an_operator_without_kernel_names_the_layer(process):
    @keras.saving.register_keras_serializable("tests.converter")
    class Odd(keras.layers.Layer):
        def call(self, x):
            return tf.linalg.svd(x, compute_uv=False)

    inputs = keras.Input((4, 4, 3))
    block = keras.Sequential([Odd(name="odd")], name="block")
    model = keras.Model(inputs, block(keras.layers.ReLU()(inputs)))
    with (
        tflite.Converter(model, process=process) as converter,
        pytest.raises(ConversionError, match=r"no operator for tf.Svd in layer block/odd") as error,
    ):
        converter.convert(tfstruct.Recipe())
    assert error.value.layers == ("block/odd",)


def test_an_operator_without_gradient_or_trace_names_the_model(process):
    class Broken(keras.layers.Layer):
        def compute_output_spec(self, x):
            return keras.KerasTensor(x.shape, x.dtype)

        def call(self, x):
            raise RuntimeError("only symbolic")

    inputs = keras.Input((3,))
    model = keras.Model(inputs, Broken(name="broken")(inputs), name="whole")
    with (
        tflite.Converter(model, process=process) as converter,
        pytest.raises(ConversionError, match=r"Tracing 'whole' failed: .*only symbolic"),
    ):
        converter.convert(tfstruct.Recipe())


def test_nothing_is_logged_of_files_in_between(caplog):
    """TensorFlow's own logger prints it to stdout in a notebook."""
    caplog.set_level(logging.INFO, "tensorflow")
    tfstruct.to_tflite(zoo.build("transposed"), verbose=0)
    tf.get_logger().info("afterwards as before")
    assert [record.getMessage() for record in caplog.records] == ["afterwards as before"]


def test_conversion_prints_nothing_on_stdout(tmp_path, capfd):
    tfstruct.to_tflite(zoo.build("transposed")).save(tmp_path / "m.tflite")
    assert capfd.readouterr().out == ""
    assert (tmp_path / "m.tflite").stat().st_size > 1000


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="the system does not say what a process holds")
def test_a_large_conversion_is_no_growth():
    """What is held between requests counts, not the peak: a process that has converted a large model is kept."""
    values = np.ones(40_000_000)
    held = child_module._memory()
    del values
    assert child_module._memory() < held - 300_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep what a process has once had")
def test_the_process_gives_back_what_a_large_model_took(process):
    """Its file, and the float weights, which oneDNN's allocator would keep."""
    keras.utils.set_random_seed(0)
    dense = [keras.layers.Dense(3000, use_bias=False) for _ in range(2)]
    large = keras.Sequential([keras.Input((3000,)), *dense])
    held = []
    for model in (keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]), large):
        with tflite.Converter(model, process=process) as converter:
            converter.draft(tfstruct.Recipe("float32"))
        running = worker.take()
        worker.give_back(running)
        held.append((running.number, running._memory))
    (first, before), (second, after) = held
    assert first == second
    assert after < before + (36 << 20)  # twice the 72 MB of the weights before
