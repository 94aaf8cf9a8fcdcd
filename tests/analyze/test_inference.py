"""What runs a model in inference leaves its states and seeds as they were, and feeds it batches that it takes."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tfstruct
from tfstruct import analyze, callbacks, convert, distill, initializers, quantize, surgery
from tfstruct.analyze.evaluation import predictor
from tfstruct.errors import DataError, ModelError, TfstructError
from tfstruct.graph import trace
from tfstruct.graph.layer_tree import layer_paths
from tfstruct.layers import MonteCarloDropout, predict_distribution
from tfstruct.samples.arrays_by_name import arrays_by_name

BATCH = 4
rng = np.random.default_rng(0)
X = rng.normal(size=(4 * BATCH + 2, 3, 2)).astype("float32")
Y = np.arange(len(X)) % 3


def network(batch, drop=True):
    """With states and seeds that have been used."""
    x = inputs = keras.Input(batch_shape=(batch, 3, 2), name="steps")
    stateful = batch is not None
    x = layers.LSTM(4, stateful=stateful, unroll=True, return_sequences=True, name="lstm")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.SimpleRNN(4, stateful=stateful, unroll=True, name="rnn")(x)
    y = layers.Dense(4, activation="relu", name="a")(x)
    x = layers.Add(name="join")([x, layers.Dense(4, name="b")(y)])
    x = MonteCarloDropout(0.2, name="drop")(x) if drop else x
    model = keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x), name="net")
    model.compile("sgd", "sparse_categorical_crossentropy")
    model(X[:BATCH])
    return model


def states(model):
    found = {}
    for path, layer in layer_paths(model).items():
        own = [*keras.tree.flatten(getattr(layer, "states", None) or []), *getattr(layer, "variables", ())]
        for number, v in enumerate(own):
            if isinstance(v, keras.Variable) and ("state" in v.name or "seed" in v.name):
                found[f"{path}/{number}"] = v.numpy()
    return found


def rows(size=BATCH, drop=True):
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(size, drop_remainder=drop)


def prune(model, criterion, kind):
    made = kind(0.5, criterion=criterion, data=(X, Y))
    made.attach(model)
    callbacks.release(model)


RUN = {
    **{f"importance {c}": lambda m, p, c=c: analyze.importance(m, c, data=(X, Y), missing="keep")
       for c in ("activation", "apoz", "entropy", "gradient", "hessian")},
    "plan_channels": lambda m, p: tfstruct.plan_channels(m, {"params": 0.8}, criterion="hessian", data=(X, Y)),
    "shrink": lambda m, p: surgery.shrink(m).max_difference,
    "optimize_inference": lambda m, p: surgery.optimize_inference(m).max_difference,
    "insert_layer": lambda m, p: surgery.insert_layer(m, layers.Dense(4, name="new"), after="a").max_difference,
    "recalibrate_batch_norm": lambda m, p: surgery.recalibrate_batch_norm(m, X),
    "recalibrate_batch_norm of batches": lambda m, p: surgery.recalibrate_batch_norm(m, rows(drop=False)),
    "analyze_bottlenecks": lambda m, p: surgery.analyze_bottlenecks(m, (X, Y)),
    "analyze_bottlenecks alone": lambda m, p: surgery.analyze_bottlenecks(m),
    "drop_blocks": lambda m, p: surgery.drop_blocks(m, X, count=1),
    "drop_blocks loss": lambda m, p: surgery.drop_blocks(m, (X, Y), count=1, criterion="loss"),
    "suggest_sharing": lambda m, p: surgery.suggest_sharing(m, X),
    "sensitivity": lambda m, p: analyze.sensitivity(m, (X, Y), ratios=(0.5,), progress=False),
    "choose_threshold": lambda m, p: analyze.choose_threshold(m, (X, Y), folds=2, thresholds=2),
    "gradient_noise_scale": lambda m, p: analyze.gradient_noise_scale(m, (X, Y), batch_size=2, groups=2),
    "to_tflite": lambda m, p: convert.to_tflite(m, "int8", calibration=X, allow_float=True),
    "measured_latency": lambda m, p: convert.measured_latency(m, "float32", seconds=0.01, process=p),
    "calibrate": lambda m, p: quantize.calibrate(m, X),
    "calibrate batches": lambda m, p: quantize.calibrate(m, rows(size=3, drop=False)),
    "correct_bias": lambda m, p: quantize.correct_bias(m, X),
    "quantize.sensitivity": lambda m, p: quantize.sensitivity(m, (X, Y), ("int8",)),
    "mixed_precision": lambda m, p: quantize.mixed_precision(m, X, {"tflite_bytes": 1.0}, ("int8",)),
    "adaround": lambda m, p: quantize.adaround(m, X, steps=2),
    "blockwise": lambda m, p: quantize.blockwise(m, X, steps=2),
    "LSUV": lambda m, p: initializers.LSUV(m, X),
    "describe": lambda m, p: initializers.describe(m, (X, Y)),
    "predict_distribution": lambda m, p: predict_distribution(m, X[: 2 * BATCH], passes=2),
    "Prune": lambda m, p: prune(m, "snip", callbacks.Prune),
    "PruneChannels": lambda m, p: prune(m, "hessian", callbacks.PruneChannels),
    "cached": lambda m, p: distill.cached(m, rows(), p.folder + f"/rows{id(m)}"),
}  # fmt: skip
ONE_BY_ONE = {"importance gradient"}  # says so
OPEN = ("importance gradient", "recalibrate_batch_norm", "choose_threshold", "calibrate", "cached")
# What others of the list run too.
SLOW = ("adaround", "mixed_precision", "importance hessian", "importance apoz", "importance entropy", "correct_bias")
CASES = [pytest.param(BATCH, f, marks=[pytest.mark.slow] if f in SLOW else []) for f in RUN]
CASES += [(None, f) for f in OPEN]


@pytest.fixture(scope="module")
def models():
    return {batch: network(batch) for batch in (BATCH, None)}


@pytest.mark.parametrize("batch, function", CASES)
@pytest.mark.sweep(14)
def test_states_and_seeds_are_left_as_they_were(function, batch, models, process):
    model, stateful = models[batch], batch is not None
    before, weights = states(model), model.get_weights()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if stateful and function in ONE_BY_ONE:
            with pytest.raises(ModelError, match="one by one"):
                RUN[function](model, process)
        else:
            RUN[function](model, process)
    after = states(model)
    assert before and (not stateful or sum(np.abs(v).sum() for k, v in before.items() if "lstm" in k) > 0.1)
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)
    model.set_weights(weights)


def test_what_fills_no_batch_is_left_out_and_said():
    model = network(BATCH, drop=False)
    with pytest.warns(UserWarning, match="fix the batch at 4: 2 of 18 samples are left out"):
        twin = quantize.calibrate(model, X)
    low, high = twin.ranges()["steps"]
    np.testing.assert_allclose([low, high], [X[:16].min(), X[:16].max()], rtol=1e-5)
    with pytest.raises(DataError, match=r"fix the batch at 4 samples\. Received: 3"):
        quantize.calibrate(model, X[:3])


def test_predictions_of_any_number_begin_with_the_same_states():
    model = network(BATCH, drop=False)
    outputs = predictor(trace(model), [X], 64)
    first = outputs()
    assert len(first) == len(X)
    np.testing.assert_allclose(outputs(), first, rtol=1e-6)
    np.testing.assert_allclose(outputs(np.arange(3)), first[:3], rtol=1e-5, atol=1e-6)
    wanted = np.concatenate([model(X[i : i + BATCH]) for i in range(0, 16, BATCH)])  # these move the states
    np.testing.assert_allclose(first[:16], wanted, rtol=1e-5, atol=1e-6)


def test_passes_of_a_distribution_draw_anew_from_the_same_states():
    model = network(BATCH, drop=False)
    x = keras.layers.GaussianNoise(0.0)(model.outputs[0])
    noisy = keras.Model(model.inputs, MonteCarloDropout(1e-9)(x))
    assert np.abs(predict_distribution(noisy, X[:8], passes=3).variance).max() < 1e-10
    assert predict_distribution(network(BATCH), X[:8], passes=3).variance.max() > 1e-6
    with pytest.raises(DataError, match=r"fixes its batch at 4: give a multiple of it\. Received: 18"):
        predict_distribution(network(BATCH), X)


@pytest.mark.parametrize("run, said", [
    (lambda m, path: tfstruct.compress(m, (X, Y), (X, Y), "params=0.5"), "fixes its batch at 4.*stateful=False"),
    (lambda m, path: distill.cached(m, rows(drop=False), path), r"dataset\.batch\(4, drop_remainder=True\)"),
])  # fmt: skip
def test_what_takes_no_fixed_batch_says_so(run, said, tmp_path):
    with pytest.raises(TfstructError, match=said):
        run(network(BATCH), tmp_path / "rows")


def twice(model, function):
    """Of samples, and of samples with labels."""
    return (function(model, data) for data in (X[:16], (X[:16], Y[:16])))


def test_a_pair_is_samples_and_labels_everywhere():
    model = network(BATCH)
    one, other = twice(model, lambda m, data: predict_distribution(m, data, passes=2).mean)
    np.testing.assert_allclose(other, one, rtol=1e-6)
    one, other = twice(model, lambda m, data: quantize.calibrate(m, data).ranges())
    assert one == other
    one, other = twice(model, lambda m, data: arrays_by_name(data, ["steps"])["steps"])
    np.testing.assert_array_equal(one, other)
    with pytest.raises(DataError, match="several inputs are a list or a dict"):
        predict_distribution(model, (X,) * 4)
    with pytest.raises(DataError, match="dict or a list of 2 arrays"):
        arrays_by_name((X, X), ["left", "right"])
