"""TFMOT's public names are here, or say what to write instead; bad arguments are errors that help."""

import ast
import importlib.util
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfstruct import tfmot
from tfstruct.errors import ArgumentError, ArgumentTypeError, MissingPackageError, ModelError

NAMESPACES = {
    "sparsity/keras": tfmot.sparsity.keras,
    "clustering/keras": tfmot.clustering.keras,
    "quantization/keras": tfmot.quantization.keras,
}


def names_of_tfmot(namespace: str) -> set[str]:
    """Read from its source: importing it loads Keras 2."""
    found = importlib.util.find_spec("tensorflow_model_optimization")
    if found is None:
        pytest.skip("needs tensorflow-model-optimization")
    root = pathlib.Path(found.submodule_search_locations[0]) / "python" / "core" / "api"
    tree = ast.parse((root / namespace / "__init__.py").read_text())
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return {alias.name for node in imports for alias in node.names} - {"clusterable_layer"}


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_every_name_is_here_or_says_what_to_write_instead(namespace):
    module = NAMESPACES[namespace]
    names = names_of_tfmot(namespace)
    assert len(names) > 5
    for name in names:
        try:
            assert getattr(module, name) is not None
        except AttributeError as error:
            assert f"tfmot.{namespace.replace('/', '.')}.{name} is not here. " in str(error), name
            assert "tfstruct.callbacks" in str(error) or "clone_function" in str(error), name
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = module.nonsense


def net():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, name="a"), keras.layers.Dense(2, name="b")])


class Subclassed(keras.Model):
    def call(self, x):
        return x


@pytest.mark.parametrize(
    "call, error, says",
    [
        (
            lambda: tfmot.sparsity.keras.prune_low_magnitude("net"),
            ModelError,
            "Expected a Keras 3 model or layer",
        ),
        (lambda: tfmot.sparsity.keras.prune_low_magnitude(Subclassed()), ModelError, "open_layers"),
        (lambda: tfmot.sparsity.keras.prune_low_magnitude(net(), block_pooling_type="MAX"), ArgumentError, "'AVG'"),
        (
            lambda: tfmot.sparsity.keras.prune_low_magnitude(net(), block_size=(2, 2), sparsity_m_by_n=(2, 4)),
            ArgumentError,
            "contradict",
        ),
        (lambda: tfmot.sparsity.keras.ConstantSparsity(1.2, 0), ArgumentError, "`target_sparsity` .*Received: 1.2"),
        (lambda: tfmot.sparsity.keras.ConstantSparsity(0.5, -1), ArgumentError, "`begin_step`"),
        (lambda: tfmot.sparsity.keras.ConstantSparsity(0.5, 5, 3), ArgumentError, "`end_step` .*Received: 5, 3"),
        (lambda: tfmot.sparsity.keras.ConstantSparsity(0.5, 0, frequency=0), ArgumentError, "`frequency`"),
        (lambda: tfmot.sparsity.keras.PolynomialDecay(0, 50, 0, 9), ArgumentError, "`final_sparsity`"),
        (lambda: tfmot.sparsity.keras.PolynomialDecay(0, 0.5, 0, -1), ArgumentError, "`end_step`"),
        (lambda: tfmot.sparsity.keras.prune_low_magnitude(net(), block_size=4), ArgumentError, "such as .1, 4.*: 4"),
        (lambda: tfmot.sparsity.keras.prune_low_magnitude(net(), sparsity_m_by_n="2:4"), ArgumentError, "'2:4'"),
        (lambda: tfmot.sparsity.keras.prune_low_magnitude(net(), pruning_policy="a"), ArgumentError, "allow_pruning"),
        (
            lambda: tfmot.sparsity.keras.prune_low_magnitude(keras.layers.Dense(2), input_shape=(4,)),
            ArgumentTypeError,
            r"no `input_shape`: .*keras\.Input",
        ),
        (
            lambda: tfmot.clustering.keras.cluster_weights(net(), 4, name="few"),
            ArgumentTypeError,
            "no `name`: .*itself",
        ),
        (lambda: tfmot.clustering.keras.cluster_weights(net(), 4, n=4), ArgumentTypeError, "help.cluster_weights"),
        (
            lambda: tfmot.clustering.keras.cluster_weights(net(), 4, "kmeans"),
            ArgumentError,
            "CentroidInitialization.LINEAR.*'kmeans'",
        ),
        (lambda: tfmot.sparsity.keras.UpdatePruningStep().set_model(net()), ModelError, "prune_low_magnitude"),
        (
            lambda: tfmot.sparsity.keras.strip_pruning(tfmot.sparsity.keras.prune_low_magnitude(net())),
            ModelError,
            "UpdatePruningStep",
        ),
        (lambda: tfmot.clustering.keras.cluster_weights(net(), 1), ArgumentError, "`number_of_clusters`"),
        (lambda: tfmot.clustering.keras.strip_clustering(net()), ModelError, "cluster_weights"),
        (lambda: tfmot.quantization.keras.quantize_apply(net()), ModelError, "quantize_annotate_layer"),
        (lambda: tfmot.quantization.keras.quantize_annotate_layer(net()), ArgumentError, "quantize_annotate_model"),
        (
            lambda: tfmot.quantization.keras.quantize_annotate_layer(keras.layers.Dense(2), object()),
            ArgumentError,
            "Scheme",
        ),
        (lambda: tfmot.quantization.keras.quantize_model(keras.layers.Dense(2)), ArgumentError, "Expected a model"),
        (lambda: tfmot.quantization.keras.quantize_apply(net(), "int8"), ArgumentError, "tfmot.experimental.combine"),
        (
            lambda: tfmot.quantization.keras.quantize_apply(
                net(), tfmot.experimental.combine.Default8BitPrunePreserveQuantizeScheme
            ),
            ArgumentError,
            r"Call it: scheme\(\)",
        ),
        (
            lambda: tfmot.quantization.keras.quantize_model(tfmot.quantization.keras.quantize_model(net())),
            ModelError,
            "8-bit file already",
        ),
    ],
)
def test_errors_say_what_to_do(call, error, says):
    with pytest.raises(error, match=says):
        call()


@pytest.mark.parametrize(
    "name, said",
    [
        ("PrunePreserve", "no zeros .*strip_pruning returns"),
        ("ClusterPreserve", "no shared values .*strip_clustering returns"),
    ],
)
def test_a_scheme_that_keeps_nothing_is_told(name, said):
    scheme = getattr(tfmot.experimental.combine, f"Default8Bit{name}QuantizeScheme")()
    with pytest.warns(UserWarning, match=said):
        tfmot.quantization.keras.quantize_apply(tfmot.quantization.keras.quantize_annotate_model(net()), scheme)


def test_what_tensorflow_does_with_a_quantized_model_is_told_the_way(tmp_path):
    aware = tfmot.quantization.keras.quantize_model(net())
    for write in (
        lambda: tf.lite.TFLiteConverter.from_keras_model(aware).convert(),
        lambda: aware.export(tmp_path / "folder"),
    ):
        with pytest.raises(ModelError, match=r"tfstruct\.to_tflite\(model\)"):
            write()
    for name in ("aware.h5", "aware.hdf5"):
        with pytest.raises(ModelError, match=r"Save it as \.keras"):
            aware.save(tmp_path / name)
    assert not list(tmp_path.iterdir())
    aware.save(tmp_path / "aware.keras")
    assert keras.models.load_model(tmp_path / "aware.keras").ranges() == aware.ranges()


@pytest.mark.parametrize("start", ["LINEAR", "linear", tfmot.clustering.keras.CentroidInitialization.LINEAR])
def test_a_start_of_clustering_is_taken_by_its_name(start):
    values = tfmot.clustering.keras.cluster_weights(net(), 3, start).get_layer("a").kernel.numpy()
    assert len(np.unique(values)) <= 3


def test_schedules_travel_by_their_own_names():
    schedules = (
        tfmot.sparsity.keras.ConstantSparsity(0.5, 2, end_step=9, frequency=3),
        tfmot.sparsity.keras.PolynomialDecay(
            initial_sparsity=0.1, final_sparsity=0.8, begin_step=2, end_step=9, power=2
        ),
    )
    for schedule in schedules:
        again = type(schedule).from_config(schedule.get_config())
        assert [again(step) for step in range(12)] == [schedule(step) for step in range(12)]
        assert again.frequency == schedule.frequency
    # final + (initial - final) * (1 - p)^power at p = 4/7
    assert schedules[1](6) == pytest.approx(0.8 - 0.7 * (3 / 7) ** 2)


def test_a_policy_chooses_layers():
    class Policy:
        def allow_pruning(self, layer):
            return layer.name == "b"

    made = tfmot.sparsity.keras.prune_low_magnitude(net(), pruning_policy=Policy())
    made.compile("sgd", "mse")
    made.fit(
        keras.ops.ones((8, 4)), keras.ops.ones((8, 2)), verbose=0, callbacks=[tfmot.sparsity.keras.UpdatePruningStep()]
    )
    shares = [float((layer.kernel.numpy() == 0).mean()) for layer in made.layers]
    assert shares == [0.0, 0.5]


def test_summaries_need_tensorboard(tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorboard" else real(name))
    with pytest.raises(MissingPackageError, match="pip install tensorboard"):
        tfmot.sparsity.keras.PruningSummaries(log_dir=str(tmp_path))
