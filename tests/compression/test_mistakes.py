"""Confusions and worst samples, by hand."""

import base64

import numpy as np
import pytest
import tensorflow as tf

from tfstruct.compression.mistakes import Mistakes, find_mistakes

X = np.arange(4 * 3, dtype="float32").reshape(4, 3)
SURE = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.05, 0.95]])
BEFORE = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.05, 0.95]])


@pytest.mark.parametrize("labels", [np.array([0, 1, 1, 0]), np.array([[0], [1], [1], [0]]), np.eye(2)[[0, 1, 1, 0]]])
def test_classes(labels):
    found = find_mistakes([X], [labels], [BEFORE], [SURE], ["probabilities"])
    assert (found.samples, found.truth, found.weight, found.classes) == (4, "labels", "confidence", 2)
    assert found.original == ((0, 0, 1), (0, 1, 1), (1, 1, 2))
    assert found.result == ((0, 0, 1), (0, 1, 1), (1, 0, 1), (1, 1, 1))
    assert [(w.index, w.expected, w.received, w.weight) for w in found.worst] == [
        (3, "0", "1", 0.95),
        (1, "1", "0", 0.8),
    ]
    assert found.worst[0].lines == ((9.0, 10.0, 11.0),) and found.worst[0].picture == ""
    assert found.recalls(found.original) == {0: 0.5, 1: 1.0} and found.recalls(found.result) == {0: 0.5, 1: 0.5}


def test_logits_a_single_probability_and_no_labels():
    logits = np.log(SURE) + 5
    found = find_mistakes([X], [np.array([0, 1, 1, 0])], [np.log(BEFORE)], [logits], ["logits"])
    assert [w.weight for w in found.worst] == pytest.approx([0.95, 0.8])
    single = find_mistakes([X], [np.array([0, 1, 1, 0])], [BEFORE[:, 1:]], [SURE[:, 1:]], ["probability"])
    assert single.result == found.result and [w.weight for w in single.worst] == pytest.approx([0.95, 0.8])
    flat = find_mistakes([X], [np.array([0, 1, 1, 0])], [BEFORE[:, 1]], [SURE[:, 1]], ["probability"])
    assert flat == single
    several = find_mistakes([X], None, [BEFORE], [SURE], ["probability"])
    assert several.weight == "mean error" and [w.index for w in several.worst] == [1]
    alone = find_mistakes([X], None, [BEFORE], [SURE], ["probabilities"])
    assert alone.truth == "the original's outputs" and [w.index for w in alone.worst] == [1]


def test_values_and_several_outputs():
    y = np.array([1.0, 2.0, 3.0, 4.0])
    out = y[:, None] + np.array([[0.0], [-0.5], [0.25], [0.0]])
    found = find_mistakes([X], [y], [out], [out], ["values"])
    assert (found.weight, found.classes, found.original) == ("mean error", 0, ())
    assert [(w.index, w.expected, w.received, w.weight) for w in found.worst] == [
        (1, "2", "1.5", 0.5),
        (2, "3", "3.25", 0.25),
    ]
    # Classes beside values: the labels of one fit no output, so both are compared with the original's.
    both = find_mistakes([X], [np.array([0, 1, 1, 0]), y], [BEFORE, out], [SURE, out], ["probabilities", "values"])
    assert both.truth == "the original's outputs" and [w.index for w in both.worst] == [1]
    assert both.worst[0].weight == pytest.approx(0.6 / BEFORE.std() / 2)


def test_a_class_at_every_position():
    labels = np.array([[0, 1], [1, 1]])
    out = np.array([[[0.9, 0.1], [0.6, 0.4]], [[0.1, 0.9], [0.2, 0.8]]])
    found = find_mistakes([X[:2]], [labels], [out], [out], ["probabilities"])
    assert found.result == ((0, 0, 1), (1, 0, 1), (1, 1, 2))
    assert [(w.index, w.expected, w.received, w.weight) for w in found.worst] == [(0, "1", "0", 0.6)]


def test_images_are_pictures_and_sequences_are_lines():
    images = np.zeros((4, 130, 100, 3), "float32")
    images[3, 0, 0] = 1.0
    found = find_mistakes([X, images], [np.array([0, 1, 1, 0])], [BEFORE], [SURE], ["probabilities"])
    picture = tf.io.decode_png(base64.b64decode(found.worst[0].picture)).numpy()
    assert picture.shape == (44, 34, 3) and picture[0, 0].tolist() == [255] * 3 and picture.sum() == 3 * 255
    series = np.arange(4 * 300 * 5).reshape(4, 300, 5)
    found = find_mistakes([series], [np.array([0, 1, 1, 0])], [BEFORE], [SURE], ["probabilities"])
    assert len(found.worst[0].lines) == 3 and found.worst[0].lines[1][:2] == (4501, 4516)
    assert len(found.worst[0].lines[0]) == 100


def test_nothing_wrong():
    found = find_mistakes([X], [np.array([0, 1, 1, 1])], [BEFORE], [BEFORE], ["probabilities"])
    assert found.worst == () and isinstance(found, Mistakes)
