"""Conversions at the same time, and in processes of every kind: the file that one conversion alone makes."""

import asyncio
import concurrent.futures
import json
import multiprocessing
import os
import pathlib
import subprocess
import sys
import textwrap
import threading
import time

import keras
import numpy as np
import pytest
from jobs import convnet, digest, images

import tfstruct
from tfstruct.callbacks import Prune, QuantizeAware
from tfstruct.convert import keras_source
from tfstruct.convert.keras_source import KerasSource

HERE = pathlib.Path(__file__).parent
L = keras.layers


def dense(seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((6,), name="features")
    x = L.LayerNormalization(name="norm")(
        L.Dense(8, activation="elu", name="hidden")(inputs)
    )  # both are rewritten in the file
    return keras.Model(inputs, L.Dense(3, name="out")(x), name=f"dense{seed}")


def recurrent(seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((5, 4), batch_size=1, name="frames")
    return keras.Model(inputs, L.Dense(3, name="out")(L.GRU(6, name="cells")(inputs)), name="recurrent")


def rows(model: keras.Model, count: int = 24) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, *model.inputs[0].shape[1:])).astype("float32")


def converted(model: keras.Model, precision: str = "int8") -> str:
    made = tfstruct.to_tflite(model, precision, calibration=rows(model), verification=rows(model), verbose=0)
    return digest(made.content)


def all_jobs() -> list:
    models = [dense(0), dense(1), recurrent(0), convnet()]
    return [(model, precision) for model in models for precision in ("int8", "int16x8", "float32")]


def alone(number: int) -> str:
    """In a process of its own."""
    return converted([dense(0), convnet()][number])


@pytest.mark.slow
@pytest.mark.parametrize("same", [False, True], ids=["models of their own", "the same models"])
def test_threads(same):
    """Also of one model in several threads at a time: it is traced, with layers in other forms, by each."""
    jobs = all_jobs()
    wanted = [converted(*job) for job in jobs]
    again = jobs if same else all_jobs()
    order = [i for _ in range(2) for i in range(len(jobs))]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: converted(*again[i]), order))
    print(f"\n{len(order)} conversions in 4 threads")
    assert found == [wanted[i] for i in order]


def test_threads_that_convert_one_model_wait_for_each_other():
    model, inside = dense(0), []

    def complete(number):
        with KerasSource(model, None, None).completed(tfstruct.Recipe()):
            inside.append(number)
            time.sleep(0.02)
            inside.append(number)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(complete, range(4)))
    assert inside[::2] == inside[1::2] and sorted(inside[::2]) == [0, 1, 2, 3]


@pytest.mark.slow
def test_two_threads_convert_one_model():
    model = dense(0)
    wanted = converted(model)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        assert list(pool.map(converted, [model] * 2)) == [wanted] * 2


def sharing(model: keras.Model) -> keras.Model:
    """Another model with the first layers of `dense`."""
    return keras.Model(model.input, L.Dense(2, name="other")(model.get_layer("norm").output), name="sharing")


def test_models_that_share_layers_are_converted_one_after_the_other():
    model, entered, at_once = dense(0), threading.Event(), threading.Event()

    def convert(one, told):
        with keras_source._alone(one):
            told.set()

    waiting = threading.Thread(target=convert, args=(sharing(model), entered))
    with keras_source._alone(model), keras_source._alone(model):
        waiting.start()
        threading.Thread(target=convert, args=(dense(1), at_once)).start()
        assert at_once.wait(10) and not entered.wait(0.2)
    assert entered.wait(10)
    waiting.join()


@pytest.mark.slow
def test_two_threads_convert_models_that_share_layers():
    model = dense(0)
    models = [model, sharing(model)] * 4
    wanted = [converted(one) for one in models[:2]] * 4
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        assert list(pool.map(converted, models)) == wanted


@pytest.mark.slow
def test_a_thread_converts_while_another_trains():
    """What is traced for the file must not reach the training step, nor the other way round."""
    model = convnet()
    model.compile("sgd", "mse", jit_compile=False)
    wanted = converted(model)
    other = convnet()
    other.compile("sgd", "mse", jit_compile=False)
    alone = convnet()
    alone.compile("sgd", "mse", jit_compile=False)
    x, y = images(64), np.zeros((64, 4), "float32")

    def fit(trained):
        keras.utils.set_random_seed(1)
        trained.fit(x, y, epochs=20, batch_size=8, shuffle=False, verbose=0, callbacks=[QuantizeAware(), Prune(0.5)])
        return [digest(w) for w in trained.get_weights()]

    expected = fit(alone)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        training = pool.submit(fit, other)
        found = []
        while not training.done() or not found:
            found.append(converted(model))
        assert training.result() == expected
    print(f"\n{len(found)} conversions during a training")
    assert set(found) == {wanted}


@pytest.mark.slow
def test_asyncio():
    jobs = all_jobs()[:6]
    wanted = [converted(*job) for job in jobs]

    async def all_at_once():
        async def directly():  # in the loop itself
            return converted(*jobs[0])

        threads = [asyncio.to_thread(converted, *job) for job in jobs]
        return await asyncio.gather(directly(), *threads)

    assert asyncio.run(all_at_once()) == [wanted[0], *wanted]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_processes(method):
    """Forked too, although this process has TensorFlow's threads: a conversion needs none of them."""
    wanted = [alone(0), alone(1)]
    with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
        found = list(pool.map(alone, [0, 1, 0, 1], timeout=300))
    assert found == wanted * 2


def test_a_forked_process_converts():
    wanted = alone(0)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, alone(0).encode())
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert os.read(read, 100).decode() == wanted
    os.close(read)
    os.close(write)


SCRIPT = """
import sys
sys.path[:0] = {paths!r}
import keras, numpy as np, tfstruct
keras.utils.set_random_seed(0)
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
print(len(tfstruct.to_tflite(model, "int8", calibration=x, verbose=0).content))
"""


def script() -> str:
    return textwrap.dedent(SCRIPT.format(paths=[str(HERE.parents[1])]))


@pytest.mark.slow
@pytest.mark.parametrize("way", ["a file", "-c", "stdin"])
def test_scripts_without_a_main_guard(tmp_path, way):
    """The converter's process does not run the script again."""
    (tmp_path / "script.py").write_text(script())
    command = {"a file": ["script.py"], "-c": ["-c", script()], "stdin": ["-"]}[way]
    done = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, input=script() if way == "stdin" else None, capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.split()) == 1 and int(done.stdout) > 500


@pytest.mark.slow
def test_a_notebook(tmp_path):
    pytest.importorskip("ipykernel", reason="a notebook's kernel needs ipykernel")
    nbclient = pytest.importorskip("nbclient", reason="to run a notebook needs nbclient")
    import nbformat

    notebook = nbformat.v4.new_notebook()
    more = "import asyncio\nprint(len(await asyncio.to_thread(lambda: tfstruct.to_tflite(model, verbose=0).content)))"
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in (script(), more, "%reset -f")]
    specification = {"display_name": "python", "language": "python", "name": "python"}
    folder = tmp_path / "kernels" / "python"
    folder.mkdir(parents=True)

    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (folder / "kernel.json").write_text(json.dumps({**specification, "argv": argv}))
    os.environ["JUPYTER_PATH"] = str(tmp_path)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parents[1]), *filter(None, sys.path)])
    client = nbclient.NotebookClient(notebook, timeout=300, kernel_name="python")
    client.execute()
    shown = [o["text"] for cell in notebook.cells for o in cell.outputs if o.get("name") == "stdout"]
    assert [int(text) > 500 for text in shown] == [True, True], shown
