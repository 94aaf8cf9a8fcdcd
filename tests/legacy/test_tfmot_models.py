"""Models that TFMOT itself pruned, clustered and trained quantization-aware."""

import functools

import numpy as np
import pytest
import tf_keras
from sweeps import sweep
from tf_keras import layers

from tfstruct import Recipe, legacy, to_tflite
from tfstruct.convert import flatbuffer
from tfstruct.errors import ModelError, RecipeError
from tfstruct.legacy import tfmot as wrappers

with wrappers.scope():
    import tensorflow_model_optimization as tfmot

RNG = np.random.default_rng(0)
X, Y = RNG.uniform(-1, 1, (64, 12, 12, 3)).astype("float32"), RNG.integers(0, 5, 64)


def built():
    x = image = layers.Input((12, 12, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(x)
    x = layers.BatchNormalization(name="bn")(x)
    x = shortcut = layers.ReLU(6.0, name="relu")(x)
    x = layers.DepthwiseConv2D(3, padding="same", name="dw", activation="relu")(x)
    x = layers.Add(name="add")([x, shortcut])
    x = layers.MaxPooling2D(name="pool")(x)
    x = layers.Conv2D(8, 3, name="conv", activation="relu")(x)
    x = layers.GlobalAveragePooling2D(name="gap")(x)
    return tf_keras.Model(image, layers.Dense(5, activation="softmax", name="head")(x), name="net")


@functools.cache
def trained_weights():
    return trained(built()).get_weights()


def network():
    model = built()
    model.set_weights(trained_weights())
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def trained(model, *callbacks):
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(X, Y, epochs=2, verbose=0, callbacks=list(callbacks))
    return model


def pruned():
    half = tfmot.sparsity.keras.ConstantSparsity(0.5, 0, frequency=1)
    model = tfmot.sparsity.keras.prune_low_magnitude(network(), half)
    return trained(model, tfmot.sparsity.keras.UpdatePruningStep())


def clustered(model=None, **kwargs):
    start = tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS
    model = model or network()
    return trained(tfmot.clustering.keras.cluster_weights(model, 6, cluster_centroids_init=start, **kwargs))


@pytest.fixture(scope="module")
def pruned_model():
    return pruned()


@pytest.fixture(scope="module")
def clustered_model():
    return clustered()


@pytest.fixture(scope="module")
def aware():
    return trained(tfmot.quantization.keras.quantize_model(network()))


def same_outputs(source, model):
    np.testing.assert_allclose(model(X[:8], training=False), source(X[:8], training=False), atol=1e-5)


def weight(model, path):
    return next(w for w in model.weights if w.path == path).numpy()


NAMES = ["image", "stem", "bn", "relu", "dw", "add", "pool", "conv", "gap", "head"]


@pytest.mark.parametrize("form", sweep(["object", "net.h5", "net"], quick=["object", "net"]))
@pytest.mark.sweep(1)
def test_pruning_is_taken_off_and_zeros_stay(form, pruned_model, tmp_path):
    source = pruned_model
    if form != "object":
        source.save(tmp_path / form)
    found = legacy.read(source if form == "object" else tmp_path / form)
    same_outputs(source, found.model)
    assert [layer.name for layer in found.model.layers] == NAMES
    assert set(found.masks) == {"stem/kernel", "conv/kernel", "head/kernel"}
    for path, mask in found.masks.items():
        assert 0.45 < np.mean(weight(found.model, path) == 0) < 0.55
        assert not weight(found.model, path)[~mask].any()
    assert "\n  stem, conv, head: took off pruning, kept its mask (50% zeros)\n" in found.explain()
    assert "relu, dw, add, pool, gap: took off a pruning wrapper that had nothing to prune" in str(found)
    assert "array(" not in repr(found)


@pytest.mark.parametrize("form", ["object", "net.h5"])
def test_clustering_is_taken_off_and_centroids_stay(form, clustered_model, tmp_path):
    source = clustered_model
    if form != "object":
        source.save(tmp_path / form)
    found = legacy.read(source if form == "object" else tmp_path / form)
    same_outputs(source, found.model)
    assert set(found.centroids) == {"stem/kernel", "conv/kernel", "head/kernel"}
    assert "\n  stem, conv, head: took off clustering, kept its 6 centroids\n" in str(found)
    assert "gap: took off a clustering wrapper that had nothing to cluster" in str(found)
    for path, centroids in found.centroids.items():
        assert set(np.unique(weight(found.model, path))) <= set(centroids)


@pytest.mark.slow
def test_clustering_that_preserves_sparsity():
    found = legacy.read(clustered(tfmot.sparsity.keras.strip_pruning(pruned()), preserve_sparsity=True))
    for path, mask in found.masks.items():
        values = weight(found.model, path)
        assert np.mean(values == 0) > 0.4 and not values[~mask].any() and len(np.unique(values)) <= 7


@pytest.mark.parametrize("form", sweep(["object", "net.h5", "net"], quick=["net.h5", "net"]))
@pytest.mark.sweep(1)
def test_quantization_aware_to_a_file_with_the_trained_scales(form, aware, tmp_path, process):
    source = aware
    if form != "object":
        source.save(tmp_path / form)
    found = legacy.read(source if form == "object" else tmp_path / form)
    assert [layer.name for layer in found.model.layers] == NAMES
    assert set(found.ranges) == {"image", "relu", "dw", "add", "conv", "gap", "head/pre_activation"}
    assert "bn, pool: took off a quantization wrapper that had nothing to quantize" in str(found)
    if form == "net":
        return
    recipe = Recipe(precision="int8", ranges=found.ranges, weight_limits=found.weight_limits, verification=X)
    result = to_tflite(found.model, recipe)
    scales = {
        tensor.name.decode(): tensor.quantization.scale
        for tensor in flatbuffer.read(result.content).subgraphs[0].tensors
        if tensor.quantization is not None and tensor.quantization.scale is not None
    }
    for path, (low, high) in found.ranges.items():
        name = "head:1" if path == "head/pre_activation" else path
        np.testing.assert_allclose(scales[name], [(high - low) / 255], rtol=1e-6)
    np.testing.assert_allclose(scales["pool"], scales["add"])
    # Kernels: the trained limit of each channel over 127, times what folding batch norm multiplies the channel by.
    assert set(found.weight_limits) == {"stem/kernel", "dw/kernel", "conv/kernel", "head/kernel"}
    bn = found.model.get_layer("bn")
    factor = np.abs(bn.gamma / np.sqrt(np.asarray(bn.moving_variance) + bn.epsilon))
    for path, limit in found.weight_limits.items():
        want = np.array(limit) / 127 * (factor if path == "stem/kernel" else 1.0)
        np.testing.assert_allclose(scales[path], np.broadcast_to(want, len(scales[path])), rtol=1e-5)
    # The fake-quantized model and the integer file see the same grid.
    assert np.abs(result.predict(X) - source(X, training=False).numpy()).max() < 0.05


def test_quantization_that_preserves_pruning_and_clusters():
    from tensorflow_model_optimization.python.core.quantization.keras.collab_opts.cluster_preserve import (
        default_8bit_cluster_preserve_quantize_scheme as clusters,
    )

    plain = network()
    plain.set_weights([np.round(w * 4) / 4 if w.ndim > 1 else w for w in plain.get_weights()])
    annotated = tfmot.quantization.keras.quantize_annotate_model(plain)
    scheme = clusters.Default8BitClusterPreserveQuantizeScheme(True)
    found = legacy.read(trained(tfmot.quantization.keras.quantize_apply(annotated, scheme)))
    assert found.ranges and set(found.masks) == set(found.centroids) == {"stem/kernel", "conv/kernel", "head/kernel"}
    for path, mask in found.masks.items():
        values = weight(found.model, path)
        assert not values[~mask].any() and (values == 0).any()
        assert len(np.unique(values)) <= found.centroids[path].size + 1


def test_ranges_that_are_missing_are_named():
    found = legacy.read(network())
    with pytest.raises(RecipeError, match=r"says nothing about .*relu.*Give calibration data"):
        to_tflite(found.model, Recipe(precision="int8", ranges={"image": (-1, 1)}))
    with pytest.raises(RecipeError, match=r"`ranges` names \['nonsense'\]"):
        to_tflite(found.model, Recipe(precision="int8", ranges={"nonsense": (-1, 1)}))
    with pytest.raises(RecipeError, match="low first"):
        Recipe(ranges={"image": (1, -1)})


def test_a_keras2_model_is_pointed_to_legacy():
    with pytest.raises(ModelError, match=r"tfstruct\.legacy\.load"):
        to_tflite(network())


def test_the_command_takes_the_trained_ranges(aware, tmp_path, capsys):
    from tfstruct import cli

    aware.save(tmp_path / "aware.h5")
    network().save(tmp_path / "plain.h5")
    out = ["-o", str(tmp_path / "out.tflite"), "--precision", "int8"]
    assert cli.main([str(tmp_path / "aware.h5"), *out]) == 0
    assert "every compute operator is integer" in capsys.readouterr().out
    assert cli.main([str(tmp_path / "plain.h5"), *out, "--overwrite"]) == 2
    assert "--precision int8 needs calibration data" in capsys.readouterr().err
