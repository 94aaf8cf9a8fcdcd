"""The converter process: crashes, hangs and unsupported operators come back as one clear error."""

import os

import keras
import pytest
import tensorflow as tf
import zoo

import tfstruct
from tfstruct.convert import converter as module
from tfstruct.convert import tflite
from tfstruct.convert.converter import ConverterProcess
from tfstruct.errors import ConversionError


@pytest.fixture
def child(monkeypatch, tmp_path):
    """Puts another script in the place of the child."""

    def put(code):
        path = tmp_path / "child.py"
        path.write_text(code)
        monkeypatch.setattr(module, "_CHILD", str(path))

    return put


def test_a_crash_is_one_error_and_the_next_request_starts_afresh(child):
    child(
        "import os, sys\nsys.stdin.readline()\nprint('Check failed: boom', file=sys.stderr, flush=True)\nos.abort()\n"
    )
    with ConverterProcess() as process:
        for _ in range(2):
            with pytest.raises(ConversionError, match=r"crashed \(exit status -6\): Check failed: boom") as error:
                process.convert("nowhere", "serve")
            assert "unroll=True" in str(error.value)


def test_a_hang_is_stopped(child):
    child("import time\ntime.sleep(600)\n")
    with ConverterProcess(timeout=0.5) as process:
        process._start()
        number = process._process.pid
        with pytest.raises(ConversionError, match=r"did not finish within 0.5 s.*--timeout"):
            process.convert("nowhere", "serve")
        with pytest.raises(ProcessLookupError):
            os.kill(number, 0)


def test_a_process_that_dies_before_the_request(child):
    child("raise SystemExit(3)\n")
    with ConverterProcess() as process:
        process._process.wait()
        with pytest.raises(ConversionError, match="exit status 3"):
            process.convert("nowhere", "serve")


def test_nothing_is_left_behind(child):
    child("import time\ntime.sleep(600)\n")
    with ConverterProcess() as process:
        folder, number = process.folder, process._process.pid
    assert not os.path.exists(folder)
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


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


def test_conversion_prints_nothing_on_stdout(tmp_path, capfd):
    tfstruct.to_tflite(zoo.build("transposed")).save(tmp_path / "m.tflite")
    assert capfd.readouterr().out == ""
    assert (tmp_path / "m.tflite").stat().st_size > 1000
