"""int8 of what makes integers hard, against TensorFlow's own converter on the same data and runtime."""

import concurrent.futures
import multiprocessing

import keras
import numpy as np
import pytest
import tensorflow as tf
from hard_models import NARROW, hard_model
from sweeps import sweep
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from tfstruct.convert import Converter, Recipe
from tfstruct.convert.agreement import decibel
from tfstruct.convert.runtime import Runtime
from tfstruct.errors import ConversionError

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


def worst_db(want, outputs) -> list[float]:
    """SQNR of each output of the model, which differ in shape."""
    found = {value.shape: value for value in outputs}
    noise = [(np.square(k).sum(), np.square(k - found[k.shape]).sum()) for k in want]
    return [decibel(float(signal), float(error)) for signal, error in noise]


@pytest.mark.parametrize("seed", sweep(range(90), QUICK))
@pytest.mark.sweep(1)
def test_no_worse_than_tensorflow_or_a_warning_says_so(seed, process, theirs):
    model, samples, parts = hard_model(seed)
    seen, held = samples[:CALIBRATION], samples[CALIBRATION:]
    want = [value.astype(np.float64) for value in keras.tree.flatten(model.predict(held, verbose=0))]
    recipe = Recipe(precision="int8", calibration=seen, check_range=False, allow_float=seed >= NARROW)
    with Converter(model, process=process) as converter:
        made = converter.convert(recipe)
    ours = worst_db(want, Runtime(made.content).run_all({Runtime(made.content).inputs[0].name: held}).values())
    try:
        content = theirs(seed)
    except concurrent.futures.process.BrokenProcessPool:
        pytest.skip(f"TensorFlow's converter crashes on {parts}; ours has {ours} dB")
    try:
        process.load(content)
    except ConversionError as error:
        pytest.skip(f"TensorFlow's file of {parts} does not load: {error}; ours has {ours} dB")
    other = Runtime(content)
    theirs_db = worst_db(want, other.run_all({other.inputs[0].name: held}).values())
    worse = any(own < least - WORSE_DB for own, least in zip(ours, theirs_db, strict=True))
    assert not worse or made.report.warnings, f"{parts}: {ours} dB, TensorFlow {theirs_db} dB"
