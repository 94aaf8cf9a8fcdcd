"""Products with a constant matrix: learned queries, filter banks. Their kernel has one scale for each side."""

import keras
import numpy as np
import pytest
from keras import ops

from tfstruct.convert import Converter, Recipe

X = np.random.default_rng(0).normal(size=(120, 6, 8)).astype("float32")
# Rows of very different sizes: by a scale for each of them, all but one were wrong.
QUERIES = (np.random.default_rng(1).normal(size=(1, 4, 8)) * [[[1.0], [0.5], [2.0], [0.25]]]).astype("float32")


@keras.saving.register_keras_serializable("tests")
class Queries(keras.layers.Layer):
    """Attention of learned queries, as in DETR, Perceiver, or pooling by attention."""

    def build(self, shape):
        self.queries = self.add_weight(shape=QUERIES.shape, name="queries")
        self.queries.assign(QUERIES)

    def call(self, x):
        return ops.matmul(ops.softmax(ops.matmul(self.queries, ops.transpose(x, (0, 2, 1)))), x)


MODELS = {
    "left": lambda x: ops.matmul(QUERIES, ops.transpose(x, (0, 2, 1))),
    "right": lambda x: ops.matmul(x, np.swapaxes(QUERIES, 1, 2)),
    "learned queries": lambda x: Queries()(x),
}


@pytest.mark.parametrize("name", MODELS)
def test_it_agrees_with_keras_in_every_precision(name, process):
    inputs = keras.Input((6, 8), name="x")
    with Converter(keras.Model(inputs, MODELS[name](inputs)), process=process) as converter:
        # Where only one is stored in 8 bits, it has to be on the right: there is no other kernel.
        for precision in ("int8", "int4", *(("int16x8", "dynamic") if name == "right" else ())):
            made = converter.convert(Recipe(precision=precision, calibration=X, verification=X))
            assert made.report.engine == "litert"
            assert made.report.verification.outputs[0].sqnr_db > 28, precision
