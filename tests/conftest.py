import gc
import os
import pathlib
import sys

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

_TIMEOUT = 120
SHARED = pathlib.Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder of real data and trained models that lies beside some checkouts."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the shared data in {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def process():
    """A converter process with a folder for all tests."""
    from tfstruct.convert.converter import ConverterProcess

    with ConverterProcess(timeout=_TIMEOUT) as running:
        yield running


@pytest.fixture
def channels_first_anywhere(monkeypatch):
    """TensorFlow's plain CPU kernels (oneDNN off) refuse NCHW convolutions: they run transposed, elsewhere too."""
    import keras
    from keras.src import backend

    home = getattr(backend, "ops", backend).nn  # from Keras 3.16 on below `backend.ops`
    plain = home.conv

    def conv(inputs, kernel, strides=1, padding="valid", data_format=None, dilation_rate=1):
        if data_format != "channels_first":
            return plain(inputs, kernel, strides, padding, data_format, dilation_rate)
        made = plain(keras.ops.moveaxis(inputs, 1, -1), kernel, strides, padding, "channels_last", dilation_rate)
        return keras.ops.moveaxis(made, -1, 1)

    monkeypatch.setattr(home, "conv", conv)


@pytest.fixture(scope="session")
def digits_model():
    """The network of the demonstration, trained for a few epochs."""
    from tfstruct import demo

    (x, y), _ = demo.digits()
    return demo.train(x, y, epochs=6)


@pytest.fixture
def float64():
    """Models in float64: in float32 rounding adds up over a deep net, whatever is done to it."""
    import keras

    saved = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx(saved[0])
    keras.config.set_dtype_policy(saved[1])
    keras.backend.clear_session()
    gc.collect()


def pytest_sessionstart(session):
    """The processor as two devices, for two replicas on one machine: possible only before TensorFlow starts."""
    if session.config.getoption("numprocesses", None) and not hasattr(session.config, "workerinput"):
        return  # this process hands the tests out to workers, and runs none
    import tensorflow as tf

    device = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [device, device])


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Of a test with `pytest.mark.sweep(n)`, `n` cases spread over all run by default, the others are `slow`."""
    cases: dict[str, list] = {}
    for item in items:
        if item.get_closest_marker("sweep"):
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for found in cases.values():
        (kept,) = found[0].get_closest_marker("sweep").args
        step = max(1.0, len(found) / kept)
        often = {int(step * (i + 0.5)) for i in range(kept)}
        for i, item in enumerate(found):
            if i not in often and len(found) > kept:
                item.add_marker(pytest.mark.slow)


def pytest_collection_finish():
    # TensorFlow's own objects stay to the end: looking through them at every collection costs a quarter of the time.
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def cases_of_this_run(request):
    """Function of an argument's name: its values in those tests of the module that this run has, for a fixture that
    prepares all of them at once."""

    def of(name: str) -> list:
        items = [item for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
        return list(dict.fromkeys(item.callspec.params[name] for item in items if name in item.callspec.params))

    return of


@pytest.fixture(scope="session")
def second_device() -> None:
    """What a test with `contracts.two_replicas` asks for."""


@pytest.fixture(autouse=True)
def _no_module_leak():
    before = list(sys.path)
    yield
    sys.path[:] = before
