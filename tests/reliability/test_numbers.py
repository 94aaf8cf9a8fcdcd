"""Odd numbers in weights, gradients, data and shapes: every compressor and every precision gives a right result, or an
error or warning that says what is wrong; never a wrong result in silence."""

import dataclasses
import warnings
from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfstruct
from tfstruct.callbacks import Cluster, Prune, PruneChannels, QuantizeAware
from tfstruct.distill import Distill
from tfstruct.errors import TfstructError
from tfstruct.schedules import ConstantRatio, PolynomialRatio

L = keras.layers
RNG = np.random.default_rng(0)
PRECISIONS = ("float32", "float16", "dynamic", "int8", "int16x8", "int4")
# How far outputs may be off, as a share of their range; of models of a few random weights.
CLOSE = {"float32": 1e-3, "float16": 1e-2, "dynamic": 0.1, "int8": 0.1, "int16x8": 0.1, "int4": 0.5}
COMPRESSORS: dict[str, Callable] = {
    "Prune": lambda: Prune(ConstantRatio(0.5), frequency=1),
    "Prune by movement": lambda: Prune(PolynomialRatio(0.0, 0.5, begin=1, end=2), criterion="movement", frequency=1),
    "PruneChannels": lambda: PruneChannels("macs=90%", ConstantRatio(0.25), frequency=1),
    "QuantizeAware": lambda: QuantizeAware(),
    "QuantizeAware int4 learned": lambda: QuantizeAware(tfstruct.quantize.Scheme("int4", steps="learned")),
    "Cluster": lambda: Cluster(3),
    "Distill": lambda: Distill(),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A model, its data and labels.

    Attributes:
        made: of no argument; a model and x.
        wrong: a right result is impossible: an error or a warning must say so.
        trains: compressors are tried on it.
    """

    made: Callable[[], tuple[keras.Model, np.ndarray]]
    wrong: bool = False
    trains: bool = True


def dense(**changed) -> tuple[keras.Model, np.ndarray]:
    keras.utils.set_random_seed(0)
    x = keras.Input((6,), batch_size=changed.get("batch"), dtype=changed.get("dtype"), name="x")
    y = L.Rescaling(0.25, name="scaled")(x) if changed.get("dtype", "").startswith(("int", "uint")) else x
    y = L.Dense(8, activation="relu", name="hidden")(y)
    model = keras.Model(x, L.Dense(changed.get("classes", 3), name="scores")(y), name="dense")
    return model, np.random.default_rng(0).normal(size=(24, 6)).astype("float32")


def convolution(channels: int = 4, size: int | None = 6) -> tuple[keras.Model, np.ndarray]:
    keras.utils.set_random_seed(0)
    x = keras.Input((size, size, 1), name="x")
    y = L.Conv2D(channels, 3, padding="same", name="conv")(x)
    y = L.ReLU(name="relu")(L.BatchNormalization(name="norm")(y))
    model = keras.Model(x, L.Dense(2, name="scores")(L.GlobalAveragePooling2D()(y)), name="convolution")
    return model, np.random.default_rng(0).normal(size=(8, 6, 6, 1)).astype("float32")


def with_weights(change: Callable[[np.ndarray], None]) -> Callable:
    """A dense network whose first kernel was changed in place."""

    def made():
        model, x = dense()
        kernel, bias = model.get_layer("hidden").get_weights()
        change(kernel)
        model.get_layer("hidden").set_weights([kernel, bias])
        return model, x

    return made


def with_data(change: Callable[[np.ndarray], np.ndarray]) -> Callable:
    def made():
        model, x = dense()
        return model, change(x.copy())

    return made


def under(policy: str) -> Callable:
    def made():
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(policy)
        try:
            return dense()
        finally:
            keras.config.set_dtype_policy(before)

    return made


def _put(value) -> Callable:
    def change(kernel):
        kernel[1, 2] = value

    return change


def _no_channel(kernel):
    kernel[:, 3] = 0


def _nothing(kernel):
    kernel[:] = 0


def _tiny(kernel):
    kernel *= 1e-40


def _one_tiny(kernel):
    kernel[:, 3] *= 1e-40


def _huge(kernel):
    kernel *= 1e30


def _set(value):
    def change(x):
        x[3, 2] = value
        return x

    return change


def _integers(dtype: str) -> Callable:
    def made():
        model, _ = dense(dtype=dtype)
        return model, np.random.default_rng(0).integers(0, 20, (24, 6)).astype(dtype)

    return made


def _one_sample():
    model, x = dense(batch=1)
    return model, x


CASES = {
    "plain": Case(dense),
    "a weight is NaN": Case(with_weights(_put(np.nan)), wrong=True),
    "a weight is infinite": Case(with_weights(_put(np.inf)), wrong=True),
    "a channel of zeros": Case(with_weights(_no_channel)),
    "a kernel of zeros": Case(with_weights(_nothing)),
    "denormal weights": Case(with_weights(_tiny)),
    "a denormal channel": Case(with_weights(_one_tiny)),
    "huge weights": Case(with_weights(_huge), trains=False),
    "a NaN in the data": Case(with_data(_set(np.nan)), wrong=True),
    "an infinity in the data": Case(with_data(_set(np.inf)), wrong=True),
    "data of zeros": Case(with_data(np.zeros_like)),
    "data of one value": Case(with_data(lambda x: np.full_like(x, 3.0))),
    "denormal data": Case(with_data(lambda x: x * np.float32(1e-40))),
    "one sample": Case(lambda: (dense()[0], dense()[1][:1])),
    "batches of one": Case(_one_sample),
    "one channel": Case(lambda: convolution(1)),
    "four channels": Case(lambda: convolution(4)),
    "open sizes": Case(lambda: convolution(4, None)),
    "10,000 classes": Case(lambda: dense(classes=10_000)),
    "float64": Case(under("float64")),
    "bfloat16": Case(under("bfloat16")),
    "mixed_bfloat16": Case(under("mixed_bfloat16")),
    "integer inputs": Case(_integers("int32")),
    "bytes as inputs": Case(_integers("uint8")),
}


def warned(caught) -> list[str]:
    """What was said in warnings that are ours."""
    return [str(one.message) for one in caught if issubclass(one.category, UserWarning)]


def silent_conversion(name: str, precision: str) -> str:
    """What is wrong and was not said; empty where nothing is."""
    case = CASES[name]
    model, x = case.made()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            shapes = {"input_shapes": {"x": (6, 6, 1)}} if None in model.inputs[0].shape[1:] else {}
            calibration = {"calibration": x} if precision in ("int8", "int16x8", "int4") else {}
            file = tfstruct.to_tflite(
                model, precision, verification=x, verbose=0, measure_latency=False, **calibration, **shapes
            )
        except TfstructError as error:
            return "" if len(str(error)) > 30 else f"an error that says nothing: {error}"
    said = [*file.report.warnings, *warned(caught)]
    if case.wrong:
        return "" if said else "nothing was said"
    with np.errstate(all="ignore"):
        expected = np.asarray(model.predict(x, verbose=0, batch_size=1 if model.inputs[0].shape[0] else 8), np.float64)
        got = np.asarray(file.predict(x), np.float64)
    spread = max(float(np.ptp(expected)), 1e-6 * float(np.abs(expected).max()), 1e-30)
    off = float(np.abs(got - expected).max()) / spread
    close = max(CLOSE[precision], 1e-2 if "bfloat16" in name else 0.0)  # the model itself has 8 bits
    if np.isfinite(got).all() and off <= close:
        return ""
    return "" if said else f"off by {off:.3g} of the range, and nothing was said"


def silent_training(case: Case, name: str) -> str:
    """The same for a compressor in `fit`."""
    model, x = case.made()
    classes = model.outputs[0].shape[-1]
    y = np.arange(len(x)) % classes
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    size = model.inputs[0].shape[0] or 8
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            compressor = Distill(teacher=case.made()[0]) if name == "Distill" else COMPRESSORS[name]()
            model.compile(keras.optimizers.SGD(1e-3), loss, jit_compile=False)
            history = model.fit(x, y, batch_size=size, epochs=2, verbose=0, callbacks=[compressor])
        except TfstructError as error:
            return "" if len(str(error)) > 30 else f"an error that says nothing: {error}"
    said = [*warned(caught), *getattr(compressor.report, "notes", ()), *getattr(compressor.report, "warnings", ())]
    finite = all(np.isfinite(np.asarray(w, np.float64)).all() for w in model.get_weights())
    finite = finite and bool(np.isfinite(history.history["loss"]).all())
    if finite and not case.wrong:
        return "" if str(compressor.report) else "there is no report"
    return "" if said else f"{'the weights are not finite' if not finite else 'all is finite'}, and nothing was said"


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.sweep(5)
def test_conversions(name, precision):
    assert silent_conversion(name, precision) == ""


@pytest.mark.parametrize("compressor", COMPRESSORS)
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.trains])
@pytest.mark.sweep(8)
def test_compressors(name, compressor):
    assert silent_training(CASES[name], compressor) == ""


@pytest.mark.parametrize("compressor", COMPRESSORS)
@pytest.mark.sweep(2)
def test_gradients_that_are_no_numbers(compressor):
    """A loss of NaN in one batch: the compressor says so, or the weights stay numbers."""

    def loss(y, outputs):
        broken = keras.ops.where(keras.ops.any(y == 2), float("nan"), 1.0)
        return keras.losses.sparse_categorical_crossentropy(y, outputs, from_logits=True) * broken

    model, x = dense()
    one = Distill(teacher=dense()[0]) if compressor == "Distill" else COMPRESSORS[compressor]()
    model.compile(keras.optimizers.SGD(1e-3), loss, jit_compile=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model.fit(x, np.arange(24) % 3, batch_size=8, epochs=1, verbose=0, callbacks=[one])
        except TfstructError:
            return
    assert warned(caught) or getattr(one.report, "notes", ())


TEXTS = np.array([["a"], ["b"]])


def _words() -> keras.Model:
    x = keras.Input((1,), dtype="string", name="words")
    return keras.Model(x, L.Dense(2)(L.Embedding(4, 3)(L.StringLookup(vocabulary=["a", "b"])(x))))


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_strings_are_refused(precision):
    with pytest.raises(TfstructError, match="string"):
        tfstruct.to_tflite(_words(), precision, calibration=TEXTS, verbose=0)
    with pytest.raises(TfstructError, match=r"numbers|string|text"):
        tfstruct.to_tflite(dense()[0], "int8", calibration=np.full((4, 6), "a"), verbose=0)


def test_ragged_data_is_refused():
    ragged = tf.ragged.constant([[1.0, 2.0], [3.0]])
    for given in (ragged, [np.ones(6), np.ones(5)], tf.data.Dataset.from_tensor_slices(ragged)):
        with pytest.raises(TfstructError, match=r"ragged|shape|Ragged"):
            tfstruct.to_tflite(dense()[0], "int8", calibration=given, verbose=0)
