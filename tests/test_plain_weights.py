"""LoRA and layers that Keras has quantized: every entry point refuses them by name, before anything happens."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

from tfstruct import analyze, callbacks, compression, convert, distill, initializers, pack, quantize, surgery, unpack
from tfstruct.convert import Converter, Recipe
from tfstruct.errors import ModelError
from tfstruct.graph.plain_weights import lora_layers

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(32, 8)).astype("float32"), RNG.integers(0, 4, 32)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def net():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,))
    inner = keras.Sequential([keras.Input((16,)), L.Dense(16, activation="relu", name="deep")], name="inner")
    h = L.Dense(16, activation="relu", name="h")(inputs)
    model = keras.Model(inputs, L.Dense(4, name="o")(L.Add(name="add")([h, inner(h)])))
    model.compile("adam", LOSS)
    return model


def spread(layers):
    """Weights of adapters that change what their layers compute."""
    for layer in layers:
        for i, variable in enumerate(v for v in layer.trainable_variables if "lora" in v.path):
            variable.assign(np.random.default_rng(i).normal(size=variable.shape) / 2)


def adapted():
    model = net()
    model.get_layer("h").enable_lora(2)
    model.get_layer("inner").get_layer("deep").enable_lora(2)
    spread(lora_layers(model).values())
    return model


def quantized():
    model = net()
    model.quantize("int8")
    return model


KINDS = {
    "lora": (adapted, r"LoRA weights: (h, inner/deep|inner/deep, h)\. .*merge_lora"),
    "int8": (quantized, r"quantized by Keras: .*h \(int8\).*before `quantize`"),
}
MADE = {kind: make for kind, (make, _) in KINDS.items()}


def plan_of_the_plain():
    return surgery.plan_channels(net(), 0.5)


# Public name -> what calls it on a model.
ENTRIES = {
    "surgery.plan_channels": lambda m: surgery.plan_channels(m, 0.5),
    "surgery.apply": lambda m: surgery.apply(m, plan_of_the_plain()),
    "surgery.shrink": surgery.shrink,
    "surgery.widen": lambda m: surgery.widen(m, "h", 32),
    "surgery.deepen": lambda m: surgery.deepen(m, "h"),
    "surgery.analyze_bottlenecks": lambda m: surgery.analyze_bottlenecks(m, X),
    "surgery.remove_redundant": surgery.remove_redundant,
    "surgery.drop_blocks": lambda m: surgery.drop_blocks(m, X, count=1),
    "surgery.downsample_early": lambda m: surgery.downsample_early(m),
    "surgery.residual_blocks": surgery.residual_blocks,
    "surgery.delete_layer": lambda m: surgery.delete_layer(m, "inner"),
    "surgery.delete_layers": lambda m: surgery.delete_layers(m, ["inner"]),
    "surgery.insert_layer": lambda m: surgery.insert_layer(m, L.ReLU(), after="h"),
    "surgery.replace_layer": lambda m: surgery.replace_layer(m, "h", L.Dense(16)),
    "surgery.fold_batch_norm": surgery.fold_batch_norm,
    "surgery.merge_linear": surgery.merge_linear,
    "surgery.merge_parallel": surgery.merge_parallel,
    "surgery.fuse_activation": surgery.fuse_activation,
    "surgery.optimize_inference": surgery.optimize_inference,
    "surgery.factorize": lambda m: surgery.factorize(m, energy=0.9),
    "surgery.share_layers": lambda m: surgery.share_layers(m, [["h", "inner/deep"]]),
    "surgery.suggest_sharing": surgery.suggest_sharing,
    "quantize.calibrate": lambda m: quantize.calibrate(m, X),
    "quantize.equalize": quantize.equalize,
    "quantize.correct_bias": lambda m: quantize.correct_bias(m, X),
    "quantize.sensitivity": lambda m: quantize.sensitivity(m, X),
    "quantize.mixed_precision": lambda m: quantize.mixed_precision(m, X, {"tflite_bytes": 0.9}),
    "quantize.adaround": lambda m: quantize.adaround(m, X),
    "quantize.blockwise": lambda m: quantize.blockwise(m, X),
    "quantize.Twin": lambda m: quantize.Twin(m),
    "surgery.open_layers": surgery.open_layers,
    "surgery.close_layers": surgery.close_layers,
    "surgery.prune_vocabulary": lambda m: surgery.prune_vocabulary(m, ids=[0]),
    "analyze.profile": analyze.profile,
    "analyze.explain": analyze.explain,
    "analyze.importance": analyze.importance,
    "analyze.sensitivity": lambda m: analyze.sensitivity(m, X, Y),
    "analyze.choose_threshold": lambda m: analyze.choose_threshold(m, (X, Y)),
    "callbacks.Prune": lambda m: callbacks.Prune(0.5).attach(m),
    "callbacks.Cluster": lambda m: callbacks.Cluster(4).attach(m),
    "callbacks.PruneChannels": lambda m: callbacks.PruneChannels({"macs": 0.5}).attach(m),
    "callbacks.QuantizeAware": lambda m: callbacks.QuantizeAware("int8").attach(m),
    "convert.dequantize": lambda m: convert.dequantize(b"", m),
    "initializers.inherit": lambda m: initializers.inherit(net(), m),
    "compression.compress": lambda m: compression.compress(m, (X, Y), (X, Y), {"macs": 0.5}, epochs=1),
}
# What runs a model as it is, or is handed what another entry made.
RUNS = {
    "surgery.recalibrate_batch_norm", "surgery.merge_lora", "quantize.dequantize", "analyze.gradient_noise_scale",
    "callbacks.AdaptiveBatchSize", "callbacks.LearningRateFinder", "callbacks.Diagnose", "callbacks.Compressor",
    "callbacks.release", "analyze.unit_scores", "distill.cached", "distill.Distill",
}  # fmt: skip


def test_every_entry_point_is_here():
    """A new public function or compressor is refused or runs: which of the two stands here."""
    for room in (surgery, quantize, analyze, callbacks, distill):
        for name in room.__all__:
            found = getattr(room, name)
            takes = inspect.isfunction(found) or (
                inspect.isclass(found) and issubclass(found, keras.callbacks.Callback)
            )
            full = f"{room.__name__.split('.')[-1]}.{name}"
            assert not takes or (full in ENTRIES) + (full in RUNS) == 1, full


@pytest.fixture(scope="module", params=list(KINDS))
def changed(request):
    make, says = KINDS[request.param]
    return make(), says


@pytest.mark.parametrize("entry", list(ENTRIES))
def test_refused_before_anything_happens(changed, entry):
    model, says = changed
    before = [v.numpy() for v in model.variables]
    with pytest.raises(ModelError, match=says):
        ENTRIES[entry](model)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
        assert variable.constraint is None
    assert "call" not in vars(model)


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("make", [lambda: callbacks.Prune(0.5), lambda: callbacks.QuantizeAware("int8")])
def test_refused_in_fit(kind, make):
    build, says = KINDS[kind]
    with pytest.raises(ModelError, match=says):
        build().fit(X, Y, epochs=1, verbose=0, callbacks=[make()])


def one_layer(kind):
    keras.utils.set_random_seed(0)
    if "Embedding" in kind:
        inputs = keras.Input((5,), dtype="int32")
        if kind == "Embedding":
            return keras.Model(inputs, L.Dense(3)(L.Embedding(10, 6, name="l")(inputs)))
        layer = L.ReversibleEmbedding(10, 6, tie_weights=True, name="l")
        return keras.Model(inputs, layer(L.Dense(6)(layer(inputs)), reverse=True))
    if kind.startswith("Conv"):
        inputs = keras.Input((*(5,) * int(kind[4]), 3))
        return keras.Model(inputs, getattr(L, kind)(4, 3, name="l")(inputs))
    inputs = keras.Input((5, 6))
    if kind == "MultiHeadAttention":
        return keras.Model(inputs, L.MultiHeadAttention(2, 3, name="l")(inputs, inputs))
    if kind == "TimeDistributed":
        return keras.Model(inputs, L.TimeDistributed(L.Dense(3), name="l")(inputs))
    if kind == "EinsumDense":
        return keras.Model(inputs, L.EinsumDense("abc,cd->abd", (None, 4), bias_axes="d", name="l")(inputs))
    if kind == "Sequential":
        return keras.Sequential([L.Dense(4, name="l"), L.BatchNormalization()])
    return keras.Model(inputs, L.Dense(4, name="l")(inputs))


def inner_layers(model):
    layer = model.get_layer("l")
    if isinstance(layer, L.MultiHeadAttention):
        return [layer._query_dense, layer._value_dense]
    return [getattr(layer, "layer", layer)]


@pytest.mark.parametrize(
    "kind",
    [
        "Dense", "EinsumDense", "Embedding", "ReversibleEmbedding", "Conv1D", "Conv2D", "Conv3D", "MultiHeadAttention",
        "TimeDistributed", "Sequential",
    ],
)  # fmt: skip
@pytest.mark.sweep(4)
def test_merged_lora_computes_the_same(kind, process):
    model = one_layer(kind)
    rng = np.random.default_rng(1)
    shape = (20, 5, 6) if kind == "Sequential" else (20, *model.input_shape[1:])
    x = rng.integers(0, 10, shape).astype("int32") if "Embedding" in kind else rng.normal(size=shape).astype("float32")
    plain_output = model(x).numpy()
    trained = [tuple(w.shape) for w in model.trainable_variables]
    for layer in inner_layers(model):
        layer.enable_lora(2)
    spread(inner_layers(model))
    with pytest.raises(ModelError, match="LoRA weights: l"):
        surgery.plan_channels(model, 0.5)
    want = model(x).numpy()
    assert np.abs(want - plain_output).max() > 0.1
    merged = surgery.merge_lora(model)
    np.testing.assert_allclose(merged(x).numpy(), want, atol=1e-5)
    np.testing.assert_allclose(model(x).numpy(), want, atol=1e-6)
    assert not lora_layers(merged) and not any("lora" in v.path for v in merged.variables)
    assert [tuple(w.shape) for w in merged.trainable_variables] == trained
    with Converter(model, process=process) as converter:  # the converter sees the sum
        file = converter.convert(Recipe(verification=x))
    assert file.report.verification.outputs[0].sqnr_db > 80


def test_nested_models_merge_and_are_compressed():
    model = adapted()
    merged = surgery.merge_lora(model)
    want = model.predict(X, verbose=0)
    np.testing.assert_allclose(merged.predict(X, verbose=0), want, atol=1e-5)
    np.testing.assert_allclose(quantize.calibrate(merged, X).predict(X, verbose=0), want, atol=0.1 * np.abs(want).max())
    merged.compile("adam", LOSS)
    merged.fit(X, Y, verbose=0, callbacks=[callbacks.Prune(0.5)])
    assert np.mean(merged.get_layer("h").kernel.numpy() == 0) == pytest.approx(0.5)
    surgery.apply(merged, surgery.plan_channels(merged, 0.5))


def test_frozen_layers_stay_frozen():
    model = adapted()
    model.get_layer("o").trainable = False
    merged = surgery.merge_lora(model)
    assert [w.path for w in merged.non_trainable_variables] == ["o/kernel", "o/bias"]


def test_what_cannot_be_merged():
    with pytest.raises(ModelError, match=r"No layer of .* has LoRA weights"):
        surgery.merge_lora(net())
    with pytest.raises(ModelError, match=r"quantized by Keras: .*merge before `quantize`"):
        surgery.merge_lora(quantized())
    with pytest.raises(ModelError, match=r"Expected a keras.Model. Received: int"):
        surgery.merge_lora(3)


def test_packed_files_hold_the_sum():
    model = adapted()
    restored = unpack(pack(model).content)
    np.testing.assert_allclose(restored.predict(X, verbose=0), model.predict(X, verbose=0), atol=1e-5)


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.sweep(1)
def test_teachers_run_as_they_are(kind):
    teacher, student = MADE[kind](), net()
    student.fit(X, Y, verbose=0, callbacks=[distill.Distill(teacher)])
    assert tf.reduce_all(tf.math.is_finite(student(X)))
