"""What is coupled to what, and why some of it cannot go."""

import json

import keras
import pytest
import zoo
from keras import layers
from sweeps import sweep

from tfstruct import explain
from tfstruct.analyze.drawing import picture_of
from tfstruct.analyze.names import by_name
from tfstruct.errors import ModelError
from tfstruct.graph import trace


def test_a_residual_couples_its_makers():
    made = explain(zoo.build("residual"))
    assert [g.name for g in made.groups] == ["stem", "head"]
    stem, head = made.groups
    assert stem.makers == ("stem", "conv1")
    assert (stem.channels, stem.removable, stem.prunable, stem.lossless, stem.reason) == (8, 8, True, True, "")
    assert ("conv1", "kernel", 2, "reads") in stem.members
    assert ("conv1", "kernel", 3, "makes") in stem.members
    assert ("bn1", "gamma", 0, "carries") in stem.members
    assert ("head", "kernel", 0, "reads") in stem.members
    assert (head.prunable, head.reason) == (False, "the model's own output")
    # stem and conv1 make 8 channels each, head 3.
    assert (made.channels, made.removable, made.share) == (19, 16, 16 / 19)


def test_statistics_over_channels_are_not_lossless():
    x = layers.Dense(6, name="dense")(inputs := keras.Input((4,)))
    x = layers.LayerNormalization(name="norm")(x)
    (dense, _) = explain(keras.Model(inputs, layers.Dense(2, name="head")(x))).groups
    assert (dense.prunable, dense.lossless) == (True, False)
    assert "norm takes statistics over channels" in dense.state()


def test_blocks_are_told():
    row = next(g for g in explain(zoo.build("grouped")).groups if g.name == "grouped")
    assert row.blocks
    assert "equally many of each of" in row.state()


def test_an_unknown_layer_freezes_with_its_name():
    @keras.saving.register_keras_serializable("tests")
    class Strange(layers.Layer):
        def call(self, x):
            return x[:, ::-1]

    x = Strange(name="odd")(layers.Dense(4, name="dense")(inputs := keras.Input((3,))))
    row = explain(keras.Model(inputs, layers.Dense(2, name="head")(x)), open_layers=False).groups[0]
    assert not row.prunable
    assert "no rule knows the layer Strange (odd)" in row.reason


def test_text_and_plain_data():
    made = explain(zoo.build("conv_bn"))
    text = str(made)
    assert "conv_bn: 20 of 25 channels (80%) can go, in 2 of 3 groups" in text
    assert "frozen: the model's own output" in text
    data = json.loads(json.dumps(made.to_dict()))
    assert data["groups"][0]["members"][0] == {"layer": "stem", "weight": "kernel", "axis": 3, "role": "makes"}
    assert data["groups"][0]["prunable"]


NAMES = [n for n in sorted(zoo.MODELS) if n != "subclassed"]


@pytest.mark.parametrize("name", sweep(NAMES, quick=["residual", "concat", "attention", "several", "nested", "shared"]))
def test_every_structure_can_be_drawn(name, tmp_path):
    model = zoo.build(name)
    made = explain(model)
    made.plot(tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 3000
    boxes = made.picture.boxes
    assert len({(b.depth, b.lane) for b in boxes}) == len(boxes)
    assert all(boxes[a].depth < boxes[b].depth for a, b in made.picture.arrows)


def test_operations_in_place_are_drawn_with_their_layer():
    graph = trace(zoo.build("conv_bn"))
    picture = picture_of(graph, by_name(graph))
    assert [(b.name, b.width) for b in picture.boxes] == [
        ("image", 3), ("stem", 8), ("pool", 8), ("conv", 12), ("gap", 12), ("head", 5),
    ]  # fmt: skip
    assert picture.boxes[1].kind == "Conv2D 3×3 BN ReLU"  # noqa: RUF001
    assert picture.arrows == tuple((i, i + 1) for i in range(5))


def test_subclassed_models_are_refused():
    with pytest.raises(ModelError, match="subclassed"):
        explain(zoo.subclassed())
