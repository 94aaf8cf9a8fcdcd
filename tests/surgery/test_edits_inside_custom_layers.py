"""Edits of layers that stand inside custom layers: these are opened where they are in the way."""

import custom_layers
import keras
import numpy as np
import pytest
from keras import layers

from tfstruct import surgery
from tfstruct.errors import ModelError, PlanError


class Block(layers.Layer):
    """Two layers that can be one, and one that can go."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.a, self.b = layers.Dense(8, name="a"), layers.Dense(8, name="b")
        self.act = layers.ReLU(name="act")

    def build(self, shape):
        self.a.build(shape)
        self.b.build(shape)

    def call(self, x):
        return self.b(self.act(self.a(x)))


def _model():
    return custom_layers.randomized(custom_layers._vector(Block(name="block")))


EDITS = {
    "delete_layer": lambda m, **o: surgery.delete_layer(m, "block/act", **o),
    "delete_layer, an object": lambda m, **o: surgery.delete_layer(m, m.get_layer("block").act, **o),
    "delete_layers": lambda m, **o: surgery.delete_layers(m, lambda layer: type(layer) is layers.ReLU, **o),
    "insert_layer": lambda m, **o: surgery.insert_layer(m, layers.Dropout(0.1, name="new"), after="block/a", **o),
    "replace_layer": lambda m, **o: surgery.replace_layer(m, "block/act", layers.ELU(name="new"), **o),
    "share_layers": lambda m, **o: surgery.share_layers(m, [["block/a", "block/b"]], **o),
}


@pytest.mark.parametrize("edit", EDITS)
def test_edits_inside(edit):
    model = _model()
    result = EDITS[edit](model)
    assert result.opened == ("block",) and "opened: block" in str(result.report)
    names = {op.name for op in result.model.get_layer("block").operations}
    assert ("act" in names) == (edit in ("insert_layer", "share_layers"))
    assert ("new" in names) == (edit in ("insert_layer", "replace_layer"))
    assert ("b" in names) == (edit != "share_layers")
    if edit == "insert_layer":
        x = custom_layers.inputs_of(model)
        np.testing.assert_allclose(model(x), result.model(x), atol=1e-6)
    with pytest.raises((ModelError, PlanError)):
        EDITS[edit](model, open_layers=False)


@pytest.mark.parametrize("which", ["first", lambda layer: isinstance(layer, layers.Dense) and layer.name == "first"])
def test_what_is_found_outside_opens_nothing(which):
    result = surgery.replace_layer(_model(), which, layers.Dense(8, name="other"))
    assert not result.opened and type(result.model.get_layer("block")) is Block


def test_a_custom_layer_itself_is_deleted():
    result = surgery.delete_layers(_model(), lambda layer: isinstance(layer, Block))
    assert not result.opened and "block" not in [layer.name for layer in result.model.layers]


def test_vocabulary_inside():
    model = custom_layers.build("positions")
    ids = np.array([[1, 2, 3, 5, 8, 11, 0, 0, 0]])
    result = surgery.prune_vocabulary(model, ids=range(12), keep=[0])
    assert result.opened == ("embed",) and result.rows["embed/tokens"] == (20, 12)
    np.testing.assert_allclose(model(ids), result.model(result.map(ids)), atol=1e-6)
    with pytest.raises(ModelError, match="No rows"):
        surgery.prune_vocabulary(model, ids=range(12), open_layers=False)


def test_downsampling_past_a_custom_layer():
    class Sharpen(layers.Layer):
        def build(self, shape):
            self.scale = self.add_weight(shape=shape[-1:], name="scale", initializer="ones")

        def call(self, x):
            return keras.ops.relu(x * self.scale)

    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", name="stem")(inputs)
    x = layers.Conv2D(5, 3, 2, padding="same", name="later")(Sharpen(name="own")(x))
    model = keras.Model(inputs, layers.GlobalAveragePooling2D()(x))
    result = surgery.downsample_early(model, "stem")
    assert result.opened == ("own",)
    assert tuple(result.model.get_layer("stem").strides) == (2, 2)
    assert not surgery.downsample_early(model, "stem", open_layers=False).opened
