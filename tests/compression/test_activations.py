"""Values inside a model, recorded once; from a region's output on the model computes what it computes as a whole."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_regions import built, made

from tfstruct import graph as graphs
from tfstruct.compression.alternatives.activations import Activations, Tail
from tfstruct.compression.alternatives.regions import region_model, regions

pytestmark = pytest.mark.usefixtures("channels_first_anywhere")


@pytest.mark.parametrize(
    "name", ["unet", "residual", "nested", "nested_in_nested", "masked", "several", "tied", "attention"]
)
def test_the_way_from_a_region_to_the_outputs(name, tmp_path):
    graph, inputs, values = made(name)
    expected = [values[c.key] for c in graph.outputs]
    found = regions(graph)
    tails = [Tail(graph, region) for region in found]
    tensors = [
        x for region, tail in zip(found, tails, strict=True) for x in (*region.inputs, *region.outputs, *tail.side)
    ]
    recorded = Activations(graph, inputs, tensors, tmp_path)
    part = slice(0, 2)
    for region, tail in zip(found, tails, strict=True):
        (entry,) = region.inputs
        again = region_model(graph, region)(tf.convert_to_tensor(recorded.of(entry)))
        np.testing.assert_allclose(again, recorded.of(region.outputs[0]), rtol=1e-5, atol=1e-6)
        outputs = tail([again], recorded.batch(tail.side, part))
        for ours, theirs in zip(outputs, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5, err_msg=region.name)
        zeros = tail([tf.zeros_like(again)], recorded.batch(tail.side, part))
        assert any(np.abs(a - b).max() > 0 for a, b in zip(zeros, outputs, strict=True)) or not np.any(again)


def test_what_does_not_fit_into_memory_goes_to_files(tmp_path):
    graph = graphs.trace(built("residual"))
    x = np.random.default_rng(0).normal(size=(150, 10, 10, 3)).astype("float32")
    tensors = [graph.model.get_layer(name).output for name in ("stem", "join")]
    small, large = (Activations(graph, [x], tensors, tmp_path / str(n), n) for n in (1 << 30, 1000))
    assert not (tmp_path / str(1 << 30)).exists() and len(list((tmp_path / "1000").iterdir())) == 2
    for tensor in tensors:
        assert isinstance(large.of(tensor), np.memmap)
        np.testing.assert_array_equal(small.of(tensor), large.of(tensor))
    expected = keras.Model(graph.model.inputs, tensors[1]).predict(x, verbose=0)
    np.testing.assert_allclose(small.of(tensors[1]), expected, rtol=1e-4, atol=1e-5)
