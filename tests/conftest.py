import gc
import os
import pathlib
import sys

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

SHARED = pathlib.Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder of real data and trained models that lies beside some checkouts."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the shared data in {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def process():
    """One converter process for all tests: starting TensorFlow takes seconds."""
    from tfstruct.convert.converter import ConverterProcess

    with ConverterProcess(timeout=120) as running:
        yield running


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


def pytest_sessionstart():
    """The processor as two devices, for two replicas on one machine: possible only before TensorFlow starts."""
    import tensorflow as tf

    device = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [device, device])


def pytest_collection_finish():
    # TensorFlow's own objects stay to the end: looking through them at every collection costs a quarter of the time.
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def second_device() -> None:
    """What a test with `contracts.two_replicas` asks for."""


@pytest.fixture(autouse=True)
def _no_module_leak():
    before = list(sys.path)
    yield
    sys.path[:] = before
