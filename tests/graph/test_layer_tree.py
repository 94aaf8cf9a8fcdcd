"""Standing in for the calls of layers: who is nearer to the layer, and replicas that run it in turns."""

import collections
import contextlib
import threading

import contracts
import keras
import numpy as np
import tensorflow as tf

from tfstruct.graph.layer_tree import intercepted, layer_paths


def times(factor, shift):
    """A route that makes `factor * y + shift` of what the layer returns."""
    return lambda path, op, call: lambda *args, **kwargs: factor * call(*args, **kwargs) + shift


def test_paths_of_models_of_one_name_inside_one_another():
    def named(name, layer):
        x = keras.Input((4,))
        return keras.Model(x, layer(x), name=name)

    sequential = keras.Sequential([keras.layers.Dense(2, name="dense")], name="block")
    model = named("block", named("block", named("block", sequential)))
    assert [*layer_paths(model)] == ["block", "block/block", "block/block/block", "block/block/block/dense"]


def test_the_one_opened_first_sees_what_the_other_returns():
    layer = keras.layers.Identity()
    x = np.ones((1, 2), "float32")
    with intercepted({"layer": layer}, times(2, 0)):
        with intercepted({"layer": layer}, times(1, 5)):
            np.testing.assert_array_equal(layer(x), 2 * (x + 5))
        np.testing.assert_array_equal(layer(x), 2 * x)
    np.testing.assert_array_equal(layer(x), x)
    assert "call" not in vars(layer)


def test_closed_in_any_order():
    layer = keras.layers.Identity()
    x = np.ones((1, 2), "float32")
    first, second = contextlib.ExitStack(), contextlib.ExitStack()
    first.enter_context(intercepted({"layer": layer}, times(2, 0)))
    second.enter_context(intercepted({"layer": layer}, times(1, 5)))
    first.close()
    np.testing.assert_array_equal(layer(x), x + 5)
    second.close()
    assert "call" not in vars(layer)


def test_replicas_in_turns(second_device):
    strategy = contracts.two_replicas()
    seen = []

    def note(who):
        def route(path, op, call):
            def routed(x):
                seen.append((who, threading.get_ident()))  # a replica is a thread
                return call(x)

            return routed

        return route

    layer = keras.layers.Identity()

    @tf.function
    def step():
        def replica():
            with intercepted({"layer": layer}, note("replica")):
                layer(tf.ones(()))
                # Here the other replica runs up to this point.
                tf.distribute.get_replica_context().merge_call(lambda _: None)
                layer(tf.ones(()))

        strategy.run(replica)

    with intercepted({"layer": layer}, note("all")):
        step()
    counts = collections.Counter(seen)
    assert len(counts) == 4 and set(counts.values()) == {2}
    assert "call" not in vars(layer)
