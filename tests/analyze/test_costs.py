"""Costs counted on the graph: against closed formulas, the rebuilt model, and files that were written."""

import keras
import numpy as np
import pytest
import zoo
from keras import layers
from oracle import removable
from sweeps import sweep

from tfstruct.analyze import Costs
from tfstruct.convert import Converter, Recipe
from tfstruct.errors import ModelError
from tfstruct.graph import groups, rebuild, trace

ZOO = [name for name in sorted(zoo.MODELS) if name != "subclassed"]


def _drop(graph, share=0.4, seed=0):
    keep, rng = np.ones(graph.units.count, bool), np.random.default_rng(seed)
    for group in groups(graph):
        keep[removable(group, share, rng)] = False
    return keep


# Depthwise and grouped convolutions, sums, joins, gates, several outputs, calls within and of one layer twice.
QUICK = ["depthwise", "residual", "concat", "grouped", "lstm", "attention", "several", "nested", "shared"]


@pytest.mark.parametrize("name", sweep(ZOO, quick=QUICK))
def test_costs_of_what_stays_are_those_of_the_rebuilt_model(name):
    graph = trace(zoo.build(name))
    keep = _drop(graph)
    smaller, _ = rebuild(graph, keep)
    assert Costs(graph)(keep) == Costs(trace(smaller))()
    assert Costs(graph)(keep)["params"] == smaller.count_params()


def test_costs_of_everything_and_of_no_choice_are_equal():
    graph = trace(zoo.build("grouped"))
    costs = Costs(graph)
    assert costs() == costs(np.ones(graph.units.count, bool))
    assert costs()["params"] == zoo.build("grouped").count_params()


def test_peak_memory_by_hand():
    x = inputs = keras.Input((4, 4, 2))
    x = layers.Conv2D(8, 1)(x)  # 32 in, 128 out
    x = y = layers.ReLU()(x)  # in place
    x = layers.Conv2D(4, 1)(x)  # 128 in, 64 out; 128 still needed for y
    x = layers.BatchNormalization()(x)
    x = layers.Conv2D(8, 1)(x)  # 64 in, 128 out, 128 waits: the worst moment, unless Add's 3 * 128 is
    x = layers.Add()([x, y])
    x = layers.Flatten()(x)
    graph = trace(keras.Model(inputs, layers.Dense(3)(x)))
    costs = Costs(graph)
    assert costs.timeline().tolist() == [160, 128, 192, 192, 320, 384, 128, 131]
    assert costs()["peak_memory"] == 384


def test_an_activation_does_not_overwrite_what_is_needed_later():
    x = inputs = keras.Input((10,))
    y = layers.ReLU()(x)
    graph = trace(keras.Model(inputs, layers.Add()([x, y])))
    assert Costs(graph).timeline().tolist() == [20, 30]


def test_dead_model_of_no_operation():
    x = keras.Input((4,))
    assert Costs(trace(keras.Model(x, x)))() == {"macs": 0, "params": 0, "tflite_bytes": 595, "peak_memory": 4}


def test_open_sizes_raise_only_where_they_matter():
    x = inputs = keras.Input((None, None, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(x))
    graph = trace(keras.Model(inputs, layers.Dense(2)(x), name="open"))
    with pytest.raises(ModelError, match=r"leaves spatial sizes open, so its macs are unknown. Give input_shape"):
        Costs(graph)()
    assert Costs(graph, ("params",))() == {"params": 4 * 28 + 2 * 5}
    with pytest.raises(ValueError, match="must be of macs, params"):
        Costs(graph, ("flops",))


def _int8_size(model, process):
    x = zoo.sample_inputs(model, 4)
    recipe = Recipe(precision="int8", calibration=x, check_range=False, samples=4)
    with Converter(model, process=process) as converter:
        return len(converter.convert(recipe).content)


def _digits(width):
    x = inputs = keras.Input((8, 8, 1), name="digit")
    x = layers.Rescaling(1 / 16, name="rescale")(x)
    for i, (filters, stride) in enumerate(((width, 1), (2 * width, 2), (2 * width, 1))):
        x = layers.Conv2D(filters, 3, stride, padding="same", use_bias=False, name=f"conv{i}")(x)
        x = layers.ReLU(name=f"relu{i}")(layers.BatchNormalization(name=f"norm{i}")(x))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax", name="classes")(x), name="digits")


def _resnet8(width):
    def conv(x, filters, size, stride=1):
        x = layers.Conv2D(filters, size, stride, padding="same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

    inputs = keras.Input((32, 32, 3))
    x = layers.ReLU()(conv(inputs, width, 3))
    for filters, stride in ((width, 1), (2 * width, 2), (4 * width, 2)):
        y = conv(layers.ReLU()(conv(x, filters, 3, stride)), filters, 3)
        x = layers.Conv2D(filters, 1, stride)(x) if stride > 1 else x
        x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x), name="resnet8")


BOUNDED = {
    "digits 4": lambda: _digits(4),
    "digits 31": lambda: _digits(31),
    "resnet8 13": lambda: _resnet8(13),
    "depthwise": lambda: zoo.build("depthwise"),
}


@pytest.mark.parametrize("name", sweep(BOUNDED, quick=["depthwise"]))
def test_the_bound_of_the_int8_file_holds_and_is_tight(name, process):
    model = zoo.randomise(BOUNDED[name]())
    size = _int8_size(model, process)
    bound = Costs(trace(model))()["tflite_bytes"]
    assert size <= bound <= (1.05 if size > 50_000 else 1.3) * size


@pytest.mark.slow
def test_a_shared_layer_with_two_batch_norms_is_two_kernels(process):
    conv = layers.Conv2D(64, 3, padding="same", name="conv")
    x = layers.BatchNormalization(name="bn1")(conv(inputs := keras.Input((8, 8, 64))))
    x = layers.BatchNormalization(name="bn2")(conv(x))
    model = zoo.randomise(keras.Model(inputs, x))
    # With other signs the integers are others; a file holds equal kernels once.
    model.get_layer("bn2").gamma.assign(-model.get_layer("bn2").gamma)
    size = _int8_size(model, process)
    assert size <= Costs(trace(model))()["tflite_bytes"] <= 1.05 * size


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_the_bound_holds_on_the_zoo(name, process):
    graph = trace(zoo.build(name))
    assert _int8_size(graph.model, process) <= Costs(graph)()["tflite_bytes"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, options",
    [
        ("MobileNetV2", {"alpha": 0.35}), ("MobileNetV2", {"alpha": 1.0}), ("MobileNetV3Small", {}),
        ("EfficientNetB0", {}), ("DenseNet121", {}), ("ResNet50", {}),
    ],
)  # fmt: skip
def test_the_bound_holds_on_pruned_applications(name, options, process):
    build = getattr(keras.applications, name)
    graph = trace(zoo.randomise(build(weights=None, input_shape=(64, 64, 3), classes=10, **options)))
    keep = _drop(graph, 0.5)
    smaller, _ = rebuild(graph, keep)
    size = _int8_size(smaller, process)
    assert size <= Costs(graph)(keep)["tflite_bytes"] <= 1.05 * size


@pytest.mark.slow
def test_the_bound_of_a_trained_network(shared, process):
    model = keras.saving.load_model(shared / "models" / "resnet8_cifar10_jpeg.h5", compile=False)
    size = _int8_size(model, process)
    assert size <= Costs(trace(model))()["tflite_bytes"] <= 1.05 * size
