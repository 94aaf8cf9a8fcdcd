"""Callbacks that were used are pickled and copied, without the model; the copy works in another `fit`."""

import copy
import pickle

import numpy as np
import pytest
from compressors import COMPRESSORS, is_plain, relu_network
from small import asked, data, fit, shares

from tfstruct.callbacks import AdaptiveBatchSize, Diagnose, LearningRateFinder

WAYS = {"pickle": lambda one: pickle.loads(pickle.dumps(one)), "deepcopy": copy.deepcopy}


@pytest.mark.parametrize("name", COMPRESSORS)
@pytest.mark.sweep(2)
def test_copies_of_a_used_compressor(name):
    model, one = relu_network(), COMPRESSORS[name]()
    fit(model, one)
    weights = model.get_weights()
    for way in WAYS.values():
        other, twin = relu_network(), way(one)
        assert twin.steps == 16 and str(twin.report) == str(one.report)
        fit(other, twin, epochs=1)
        assert twin.steps == 24 and is_plain(other)
        if name == "Prune":
            assert shares(other) == asked(0.75)
    for a, b in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(a, b)  # the copy has no hold of the first model


@pytest.mark.parametrize("name", COMPRESSORS)
def test_copies_while_attached(name):
    model, one = relu_network(), COMPRESSORS[name]()
    one.attach(model)
    twin = pickle.loads(pickle.dumps(one))
    other = relu_network()
    assert twin.attach(other).finish() is not None and is_plain(other)
    assert one.finish() is not None and is_plain(model)


@pytest.mark.slow
def test_copies_of_those_that_watch():
    finder, watch, adaptive = LearningRateFinder(steps=10), Diagnose(verbose=0), AdaptiveBatchSize(8, 16)
    fit(relu_network(), finder)
    fit(relu_network(), watch)
    relu_network().fit(adaptive.data(*data()), verbose=0, callbacks=[adaptive])
    for way in WAYS.values():
        again = way(finder)
        assert again.report.suggestion == finder.report.suggestion
        fit(relu_network(), again)
        fit(relu_network(), way(watch))
        more = way(adaptive)
        assert len(relu_network().fit(more.data(*data()), verbose=0, epochs=2, callbacks=[more]).epoch) == 2
