"""Weights that share few values while they train, in every way to train."""

import contracts
import keras
import numpy as np
import pytest

from tfstruct import Recipe
from tfstruct.callbacks import Cluster, Prune, QuantizeAware
from tfstruct.convert import flatbuffer
from tfstruct.convert.tflite import Converter
from tfstruct.errors import ModelError


def build():
    return contracts.network(optimizer=keras.optimizers.Adam(3e-3))


def values(model, name="conv") -> int:
    return len(np.unique(model.get_layer(name).kernel.numpy()))


def trained(way="fit", epochs=3, make=lambda: Cluster(8)):
    cluster = make()
    model, losses = contracts.compressed(build, cluster, way, epochs)
    return model, cluster, losses


@pytest.mark.parametrize("way", contracts.WAYS)
@pytest.mark.sweep(2)
def test_ways_to_train(way, second_device):
    before = contracts.built(build, "fit").get_layer("conv").kernel.numpy()
    model, cluster, losses = trained(way)
    assert losses[-1] < losses[0]
    assert values(model) == 8 and values(model, "logits") == 8
    assert not np.array_equal(np.unique(before), np.unique(model.get_layer("conv").kernel.numpy()))
    assert "call" not in vars(model) and model.get_layer("conv").kernel.constraint is None
    assert {row.name: row.values for row in cluster.report.layers} == {"conv/kernel": 8, "logits/kernel": 8}
    if way == "mirrored":
        contracts.assert_replicas_agree(model)


def test_a_step_by_hand():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False, name="dense")])
    model.get_layer("dense").kernel.assign([[1.0], [1.2], [5.0]])
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
    x, y = np.array([[1.0, 2.0, 3.0]], "float32"), np.zeros((1, 1), "float32")
    model.fit(x, y, verbose=0, callbacks=[Cluster(2)])
    # Values 1.1, 1.1, 5; the output 3.3 + 15; dL/dw = 2 * 18.3 * (1, 2, 3), the first two summed.
    gradient = 2 * 18.3
    wanted = [1.1 - 0.1 * 3 * gradient, 1.1 - 0.1 * 3 * gradient, 5 - 0.1 * 3 * gradient]
    np.testing.assert_allclose(model.get_layer("dense").kernel.numpy().ravel(), wanted, rtol=1e-5)


@pytest.mark.parametrize(
    "options, most",
    [
        ({"bits": 2}, 4),
        ({"n_clusters": 3, "per": "channel"}, 3 * 8),
        ({"n_clusters": 6, "per": "model"}, 6),
        ({"n_clusters": 5, "share": "hash"}, 10),
        ({"n_clusters": 4, "share": "product", "block": 3}, 12),
        ({"n_clusters": 8, "entropy": 2.0}, 8),
        ({"n_clusters": 4, "per": "channel", "entropy": 1.5}, 4 * 8),
    ],
)
@pytest.mark.sweep(3)
def test_ways_to_share(options, most):
    model, cluster, losses = trained(epochs=2, make=lambda: Cluster(layers="conv", **options))
    assert np.isfinite(losses).all()
    kernel = model.get_layer("conv").kernel.numpy()
    assert 1 < len(np.unique(kernel)) <= most
    if options.get("share") == "hash":
        assert len(np.unique(np.abs(kernel))) <= 5
    if options.get("per") == "channel":
        assert max(len(np.unique(kernel[..., i])) for i in range(8)) <= options["n_clusters"]
    if options.get("per", "layer") == "layer" and "entropy" in options:
        assert 1.5 < cluster.report.entropy <= options["entropy"]
    assert cluster.report.to_dict()["share"] == options.get("share", "kmeans")


def test_the_file_has_as_many_integers(process):
    model, cluster, _ = trained()
    x, _ = contracts.data(64, seed=1)
    recipe = Recipe(precision="int8", calibration=x, weight_limits=cluster.weight_limits)
    with Converter(model, process=process) as converter:
        file = converter.convert(recipe)
    read = flatbuffer.read(file.content)
    kernel = next(t for t in read.subgraphs[0].tensors if t.shape is not None and list(t.shape) == [8, 3, 3, 2])
    stored = np.asarray(read.buffers[kernel.buffer].data).view(np.int8).reshape(8, -1)
    factors = model.get_layer("norm").gamma.numpy()
    assert len(np.unique(stored * np.sign(factors)[:, None])) <= 8
    agreement = np.mean(file.predict(x).argmax(1) == model.predict(x, verbose=0).argmax(1))
    assert agreement > 0.9


def test_zeros_of_pruning_and_quantization_in_one_fit(process):
    model = build()
    x, y = contracts.data()
    callbacks = [Prune(0.5, layers="conv"), Cluster(8, layers="conv"), QuantizeAware()]
    model.fit(x, y, batch_size=16, epochs=3, verbose=0, callbacks=callbacks)
    kernel = model.get_layer("conv").kernel.numpy()
    assert np.mean(kernel == 0) == 0.5 and len(np.unique(kernel)) <= 8
    assert model.get_layer("conv").kernel.constraint is None and "call" not in vars(model)
    twin = callbacks[2].twin
    with Converter(twin, process=process) as converter:
        file = converter.convert(Recipe(weight_limits=callbacks[1].weight_limits))
    assert np.mean(file.predict(x).argmax(1) == twin.predict(x, verbose=0).argmax(1)) > 0.9


def test_early_stopping_and_a_second_fit():
    model = build()
    x, y = contracts.data()
    stop = keras.callbacks.EarlyStopping("loss", patience=1, restore_best_weights=True, start_from_epoch=0)
    cluster = Cluster(8)
    model.fit(x, y, batch_size=16, epochs=3, verbose=0, callbacks=[cluster, stop])
    assert values(model) == 8
    first = model.get_layer("conv").kernel.numpy()
    model.fit(x, y, batch_size=16, epochs=1, verbose=0, callbacks=[cluster])
    second = model.get_layer("conv").kernel.numpy()
    assert values(model) == 8 and not np.array_equal(first, second)
    for value in np.unique(first):  # the groups are the same
        assert len(np.unique(second[first == value])) == 1


def test_killed_and_resumed(tmp_path):
    whole, _, _ = trained(epochs=2)

    class Killed(Exception):
        pass

    def kill(epoch, logs):
        raise Killed

    folder, x = str(tmp_path / "backup"), contracts.data()
    settings = {"batch_size": 16, "epochs": 2, "shuffle": False, "verbose": 0}
    callbacks = [Cluster(8), keras.callbacks.BackupAndRestore(folder)]
    with pytest.raises(Killed):
        first = contracts.built(build, "fit")
        first.fit(*x, **settings, callbacks=[*callbacks, keras.callbacks.LambdaCallback(on_epoch_end=kill)])
    second = contracts.built(build, "fit")
    second.fit(*x, **settings, callbacks=[Cluster(8), keras.callbacks.BackupAndRestore(folder)])
    for a, b in zip(whole.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert values(second) == 8


def test_report():
    _, cluster, _ = trained(epochs=1)
    report = cluster.report
    assert "conv/kernel" in str(report) and report.table().row_count >= 2
    assert 0 < report.entropy <= 3 and report.to_dict()["layers"][0]["values"] == 8
    assert report.plot().axes


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "either `n_clusters` or `bits`"),
        ({"n_clusters": 4, "bits": 2}, "either `n_clusters` or `bits`"),
        ({"n_clusters": 1}, "`n_clusters` must be an integer of at least 2"),
        ({"n_clusters": 4, "init": "guess"}, "`init` must be one of"),
        ({"n_clusters": 4, "entropy": 2.0}, "`entropy` must be between"),
        ({"n_clusters": 4, "share": "hash", "entropy": 1.0}, "`entropy` goes with"),
        ({"n_clusters": 4, "share": "product"}, "`block` goes with"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        Cluster(**options)


def test_two_that_want_the_same_weights():
    model = build()
    Cluster(4).attach(model)
    with pytest.raises(ModelError, match="both want the weight"):
        Cluster(4).attach(model)
    with pytest.raises(ModelError, match="has to be attached before"):
        Prune(0.5).attach(model)


def test_losses_of_layers_count_while_weights_are_shared():
    """`activity_regularizer` and `add_loss` in a functional model, which takes no loss of its own."""
    layers = keras.layers
    inputs = keras.Input((8,))
    hidden = layers.Dense(16, activity_regularizer="l2", name="hidden")(inputs)
    model = keras.Model(inputs, layers.Dense(4, name="out")(layers.ActivityRegularization(0.1)(hidden)))
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(16, 8)).astype("float32")
    cluster = Cluster(4).attach(model)
    model(x)
    shared = [float(loss) for loss in model.losses]
    cluster.finish()
    model(x)
    np.testing.assert_allclose(sorted(shared), sorted(float(loss) for loss in model.losses), rtol=1e-5)
    assert len(shared) == 2 and min(shared) > 0
    model.fit(x, x[:, :4], verbose=0, callbacks=[Cluster(4)])
    assert len(np.unique(model.get_layer("hidden").kernel.numpy())) <= 4
