"""A float `.tflite` file that litert-torch made of a PyTorch model: an int8 file as good as from an equal Keras model.

litert-torch brings PyTorch and two gigabytes: it is looked for in this Python, or in the one that the environment
variable TFSTRUCT_LITERT_TORCH names (`python -m venv torch; torch/bin/pip install litert-torch`).
"""

import importlib.util
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tfstruct import Recipe, check_target, demo, to_tflite
from tfstruct.convert.runtime import Runtime

SCRIPT = pathlib.Path(__file__).with_name("torch_digits.py")
WITHIN_DB = 0.3


def _python() -> str:
    named = os.environ.get("TFSTRUCT_LITERT_TORCH")
    if named:
        return named
    if importlib.util.find_spec("litert_torch") is None:
        pytest.skip("needs litert-torch, here or in the Python that TFSTRUCT_LITERT_TORCH names")
    return sys.executable


def _weights(model) -> dict[str, np.ndarray]:
    found = {f"conv{i}": model.get_layer(f"conv{i}").get_weights()[0] for i in (1, 2, 3)}
    found |= {f"norm{i}": np.stack(model.get_layer(f"norm{i}").get_weights()) for i in (1, 2, 3)}
    kernel, bias = model.get_layer("classes").get_weights()
    return {**found, "kernel": kernel, "bias": bias}


def _worst(made) -> float:
    return min(one.sqnr_db for one in made.report.verification.outputs)


@pytest.mark.slow
@pytest.mark.parametrize("channels", ["first", "last"])
def test_a_file_of_pytorch_is_as_good_as_a_keras_model(channels, digits_model, tmp_path):
    python = _python()
    np.savez(tmp_path / "weights.npz", **_weights(digits_model))
    source = tmp_path / "float.tflite"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [python, str(SCRIPT), str(tmp_path / "weights.npz"), str(source), channels],
        capture_output=True, text=True, env=environment, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]

    (x, _), (test, labels) = demo.digits()

    def given(images):
        return images.transpose(0, 3, 1, 2) if channels == "first" else images

    runtime = Runtime(source.read_bytes())
    (port,), (out,) = runtime.inputs, runtime.outputs
    floats = np.concatenate([runtime.run({port.name: one[None]})[out.name] for one in given(test[:50])])
    np.testing.assert_allclose(floats, digits_model.predict(test[:50], verbose=0), atol=1e-5)

    def recipe(images, samples):
        return Recipe(
            "int8", calibration=images, verification=samples, labels=labels, measure_latency=False, check_range=False
        )

    ours = to_tflite(digits_model, recipe(x[:300], test))
    theirs = to_tflite(source, recipe(given(x[:300]), given(test)))
    assert _worst(theirs) >= _worst(ours) - WITHIN_DB, (_worst(theirs), _worst(ours))
    assert theirs.report.float_operators == () and check_target(theirs, "micro").fits
    print(f"channels {channels}: {_worst(theirs):.2f} dB from PyTorch, {_worst(ours):.2f} dB from Keras")
