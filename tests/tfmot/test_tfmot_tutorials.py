"""The tutorials of TFMOT's guide, with the import changed, on small generated data."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfstruct
from tfstruct import tfmot

L = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(128, 8, 8, 1)).astype("float32")
Y = (X.mean(axis=(1, 2, 3)) > 0).astype("int32")
COMPILED = {
    "optimizer": "adam",
    "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    "metrics": ["accuracy"],
}


def zeros(layer) -> float:
    return float((np.asarray(layer.kernel) == 0).mean())


def values(layer) -> int:
    return len(np.unique(layer.kernel))


def trained(model, callbacks=(), epochs=1):
    model.compile(**COMPILED)
    model.fit(X, Y, batch_size=32, epochs=epochs, verbose=0, callbacks=list(callbacks))
    return model


def sequential():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            L.Conv2D(4, 3, activation="relu", name="conv"),
            L.Flatten(name="flat"),
            L.Dense(12, activation="relu", name="hidden"),
            L.Dense(2, name="scores"),
        ]
    )


def functional():
    made = sequential()
    return keras.Model(made.inputs, made.outputs)


@pytest.fixture(scope="module")
def pruned():
    """Half of its weights at zero; no test changes it."""
    made = tfmot.sparsity.keras.prune_low_magnitude(sequential())
    return tfmot.sparsity.keras.strip_pruning(trained(made, [tfmot.sparsity.keras.UpdatePruningStep()]))


# Pruning


def test_pruning_a_whole_model(tmp_path):
    model = functional()
    params = {
        "pruning_schedule": tfmot.sparsity.keras.PolynomialDecay(
            initial_sparsity=0.50, final_sparsity=0.80, begin_step=0, end_step=8, frequency=2
        )
    }
    for_pruning = tfmot.sparsity.keras.prune_low_magnitude(model, **params)
    trained(for_pruning, [tfmot.sparsity.keras.UpdatePruningStep()], epochs=2)
    _, accuracy = for_pruning.evaluate(X, Y, verbose=0)
    for_export = tfmot.sparsity.keras.strip_pruning(for_pruning)
    for name in ("conv", "hidden", "scores"):
        kernel = np.asarray(for_export.get_layer(name).kernel)
        kept = max(round(kernel.size * 0.2), 1)
        assert np.count_nonzero(kernel) == kept
    for_export.compile(**COMPILED)
    for_export.save(tmp_path / "pruned.keras")
    with tfmot.sparsity.keras.prune_scope():
        loaded = keras.models.load_model(tmp_path / "pruned.keras")
    assert loaded.evaluate(X, Y, verbose=0)[1] == pytest.approx(accuracy)
    assert zeros(loaded.get_layer("hidden")) > 0.79


def test_pruning_some_layers_of_a_trained_model():
    model = sequential()

    def apply_pruning_to_dense(layer):
        return tfmot.sparsity.keras.prune_low_magnitude(layer) if isinstance(layer, L.Dense) else layer

    for_pruning = keras.models.clone_model(model, clone_function=apply_pruning_to_dense)
    trained(for_pruning, [tfmot.sparsity.keras.UpdatePruningStep()])
    assert zeros(for_pruning.get_layer("hidden")) == 0.5 and zeros(for_pruning.get_layer("conv")) < 0.1


def test_pruning_layers_where_a_model_is_written():
    prune = tfmot.sparsity.keras.prune_low_magnitude
    inputs = keras.Input((8, 8, 1))
    x = L.Flatten()(inputs)
    x = prune(L.Dense(12, activation="relu", name="hidden"), sparsity_m_by_n=(2, 4))(x)
    x = prune(L.Dense(8, name="blocks"), block_size=(4, 2))(x)
    made = trained(keras.Model(inputs, L.Dense(2, name="scores")(x)), [tfmot.sparsity.keras.UpdatePruningStep()])
    fours = np.asarray(made.get_layer("hidden").kernel).reshape(16, 4, 12)
    assert ((fours == 0).sum(axis=1) >= 2).all()
    blocks = np.asarray(made.get_layer("blocks").kernel).reshape(3, 4, 4, 2) != 0
    assert set(np.unique(blocks.sum(axis=(1, 3)))) == {0, 8} and zeros(made.get_layer("blocks")) == 0.5
    assert zeros(made.get_layer("scores")) == 0


def test_pruning_in_a_loop_of_ones_own():
    for_pruning = tfmot.sparsity.keras.prune_low_magnitude(
        sequential(), tfmot.sparsity.keras.PolynomialDecay(0.0, 0.75, begin_step=0, end_step=5, frequency=1)
    )
    loss_fn, optimizer, unused = COMPILED["loss"], keras.optimizers.Adam(), -1
    step_callback = tfmot.sparsity.keras.UpdatePruningStep()
    step_callback.set_model(for_pruning)
    step_callback.on_train_begin()

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = loss_fn(y, for_pruning(x, training=True))
        optimizer.apply_gradients(
            zip(tape.gradient(loss, for_pruning.trainable_variables), for_pruning.trainable_variables, strict=True)
        )

    for _ in range(2):
        for first in range(0, 96, 32):
            step_callback.on_train_batch_begin(batch=unused)
            step(X[first : first + 32], Y[first : first + 32])
        step_callback.on_epoch_end(batch=unused)
    assert zeros(tfmot.sparsity.keras.strip_pruning(for_pruning).get_layer("hidden")) == 0.75


def test_a_second_training_goes_on():
    schedule = tfmot.sparsity.keras.PolynomialDecay(0.0, 0.8, begin_step=0, end_step=8, frequency=1)
    for_pruning = tfmot.sparsity.keras.prune_low_magnitude(sequential(), schedule)
    trained(for_pruning, [tfmot.sparsity.keras.UpdatePruningStep()])
    half = zeros(for_pruning.get_layer("hidden"))
    assert half == pytest.approx(schedule(4), abs=0.01)
    for_pruning.fit(X, Y, batch_size=32, verbose=0, callbacks=[tfmot.sparsity.keras.UpdatePruningStep()])
    assert zeros(for_pruning.get_layer("hidden")) == pytest.approx(0.8, abs=0.001)


# Clustering


def test_clustering_a_whole_model():
    model = functional()
    trained(model)
    clustered = tfmot.clustering.keras.cluster_weights(
        model,
        number_of_clusters=8,
        cluster_centroids_init=tfmot.clustering.keras.CentroidInitialization.LINEAR,
    )
    trained(clustered)
    final = tfmot.clustering.keras.strip_clustering(clustered)
    assert [values(final.get_layer(name)) for name in ("conv", "hidden", "scores")] == [8, 8, 8]
    assert np.allclose(final(X[:8]), clustered(X[:8]), atol=1e-6)


def test_clustering_some_layers():
    model = sequential()

    def apply_clustering_to_dense(layer):
        return tfmot.clustering.keras.cluster_weights(layer, 4) if layer.name == "hidden" else layer

    clustered = trained(keras.models.clone_model(model, clone_function=apply_clustering_to_dense))
    assert values(clustered.layers[-2].layers[0]) == 4
    final = tfmot.clustering.keras.strip_clustering(clustered)
    assert values(final.get_layer("hidden")) == 4 and values(final.get_layer("conv")) == 36
    assert np.allclose(final(X[:8]), clustered(X[:8]), atol=1e-6)


# Quantization-aware training


def test_quantizing_a_whole_model(tmp_path):
    model = functional()
    trained(model)
    aware = trained(tfmot.quantization.keras.quantize_model(model))
    file = tfstruct.to_tflite(aware, measure_latency=False)
    assert file.report.precision == "int8"
    step = max(np.ptp(aware.predict(X, verbose=0)) / 255, 1e-6)
    assert np.abs(file.predict(X) - aware.predict(X, verbose=0)).max() <= 2.01 * step
    aware.save(tmp_path / "aware.keras")
    with tfmot.quantization.keras.quantize_scope():
        loaded = keras.models.load_model(tmp_path / "aware.keras")
    np.testing.assert_allclose(loaded.predict(X, verbose=0), aware.predict(X, verbose=0), atol=1e-6)


def test_quantizing_some_layers():
    model = sequential()

    def apply_quantization_to_dense(layer):
        return tfmot.quantization.keras.quantize_annotate_layer(layer) if isinstance(layer, L.Dense) else layer

    annotated = keras.models.clone_model(model, clone_function=apply_quantization_to_dense)
    with tfmot.quantization.keras.quantize_scope():
        aware = tfmot.quantization.keras.quantize_apply(annotated)
    before = annotated.get_weights()
    trained(aware)
    assert {"hidden", "scores"} <= set(aware.ranges()) and "conv" not in aware.ranges()
    assert all(np.array_equal(a, b) for a, b in zip(before, annotated.get_weights(), strict=True))  # its own weights


# Combined


def test_zeros_stay_while_it_trains_quantized(pruned):
    annotated = tfmot.quantization.keras.quantize_annotate_model(pruned)
    scheme = tfmot.experimental.combine.Default8BitPrunePreserveQuantizeScheme()
    aware = trained(tfmot.quantization.keras.quantize_apply(annotated, scheme))
    assert [zeros(aware.model.get_layer(name)) for name in ("conv", "hidden")] == [0.5, 0.5]
    with pytest.warns(UserWarning, match="zeros that nothing attached.*tfmot.experimental.combine"):
        tfmot.quantization.keras.quantize_apply(annotated)


@pytest.mark.parametrize("preserve_sparsity", [False, True])
def test_shared_values_stay_while_it_trains_quantized(pruned, preserve_sparsity):
    cluster_weights = tfmot.clustering.keras.experimental.cluster_weights
    copied = keras.models.clone_model(pruned)
    copied.set_weights(pruned.get_weights())
    clustered = trained(cluster_weights(copied, 8, preserve_sparsity=True))
    final = tfmot.clustering.keras.strip_clustering(clustered)
    scheme = tfmot.experimental.combine.Default8BitClusterPreserveQuantizeScheme(preserve_sparsity)
    annotated = tfmot.quantization.keras.quantize_annotate_model(final)
    aware = trained(tfmot.quantization.keras.quantize_apply(annotated, scheme))
    hidden = aware.model.get_layer("hidden")
    assert values(hidden) <= 8 and not np.array_equal(hidden.kernel, final.get_layer("hidden").kernel)
    if preserve_sparsity:
        assert zeros(hidden) >= 0.5
