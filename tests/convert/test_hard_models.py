"""int8 of what makes integers hard, against TensorFlow's own converter on the same data and runtime."""

import concurrent.futures
import multiprocessing

import numpy as np
import pytest
import tensorflow as tf
from hard_models import hard_model
from sweeps import sweep
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from tfstruct.convert import Converter, Recipe
from tfstruct.convert.agreement import decibel
from tfstruct.convert.runtime import Runtime

WORSE_DB, CALIBRATION = 1.0, 100
# An image with dead channels, a series with a causal mask.
QUICK = (0, 16)


def by_tensorflow(seed) -> bytes:
    """The int8 file of TensorFlow's converter with a representative dataset; in a process of its own, which it may end.

    The weights are constants, as in a file from a SavedModel.
    """
    model, samples, _ = hard_model(seed)
    function = tf.function(lambda x: model(x, training=False))
    concrete = function.get_concrete_function(tf.TensorSpec((1, *samples.shape[1:]), samples.dtype, name="x"))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([convert_variables_to_constants_v2(concrete)])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([sample[None]] for sample in samples[:CALIBRATION])
    return converter.convert()


@pytest.fixture
def theirs():
    """Another process that starts with the first question and is replaced after a crash."""
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield lambda seed: pool.submit(by_tensorflow, seed).result()


def sqnr_db(want, got) -> float:
    return decibel(float(np.square(want).sum()), float(np.square(want - got).sum()))


@pytest.mark.parametrize("seed", sweep(range(30), QUICK))
def test_no_worse_than_tensorflow_or_a_warning_says_so(seed, process, theirs):
    model, samples, parts = hard_model(seed)
    seen, held = samples[:CALIBRATION], samples[CALIBRATION:]
    want = model.predict(held, verbose=0).astype(np.float64)
    with Converter(model, process=process) as converter:
        made = converter.convert(Recipe(precision="int8", calibration=seen, check_range=False))
    ours = sqnr_db(want, made.predict(held))
    try:
        other = Runtime(theirs(seed))
    except concurrent.futures.process.BrokenProcessPool:
        pytest.skip(f"TensorFlow's converter crashes on {parts}; ours has {ours:.1f} dB")
    got = next(iter(other.run_all({other.inputs[0].name: held}).values()))
    least = sqnr_db(want, got) - WORSE_DB
    assert ours > least or made.report.warnings, f"{parts}: {ours:.1f} dB, expected more than {least:.1f}"
