"""A limit on the file's bytes that channels meet: what a plan is made by is an upper bound, what counts is the file."""

import keras
import numpy as np
import pytest
from keras import layers

from tfstruct.analyze import Costs
from tfstruct.compression import Settings, Task, carry_out, steps
from tfstruct.compression.sizing import choose_channels
from tfstruct.convert.draft import draft
from tfstruct.graph import trace


@pytest.fixture(scope="module")
def task(process):
    """Blocks of many small layers, of which the upper bound is much too large; to be made half as large."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((6, 16))
    for i in range(3):
        y = layers.LayerNormalization(name=f"norm{i}")(x)
        y = layers.Dense(48, activation="relu", name=f"wide{i}")(y)
        x = layers.Add(name=f"join{i}")([x, layers.Dense(16, name=f"back{i}")(y)])
    x = layers.GlobalAveragePooling1D()(layers.Dense(256, activation="relu", name="last")(x))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax", name="classes")(x))
    rng = np.random.default_rng(0)
    data = rng.normal(size=(40, 6, 16)).astype("float32"), rng.integers(0, 3, 40)
    with Task(model, data, data, "tflite_bytes=50%", settings=Settings(epochs=0), process=process) as one:
        yield one


@pytest.mark.parametrize("given", [False, True])
def test_what_a_step_before_has_taken_away_counts(task, given):
    """Without the small layers the bound is less too large than it was for the whole model."""
    limit = task.limits.figures["tflite_bytes"]
    bound = Costs(trace(task.model), ("tflite_bytes",))()["tflite_bytes"]
    assert bound > 1.1 * len(draft(task.model, process=task.process)[0])
    prune = steps.PruneChannels(gradual=False, budget={"tflite_bytes": limit} if given else None)
    sizing = choose_channels(task, task.model, four_bits=False)
    strategy = [steps.DropBlocks(count=2), prune.completed(lambda: sizing), steps.Quantize(precision="int8")]
    made = carry_out(task, strategy, task.folder.inner(f"given-{given}"))
    assert 0.9 * limit < made.candidate.tflite_bytes <= limit
    assert made.stages[1].step.budget["tflite_bytes"] == pytest.approx(limit)


def test_a_share_is_of_the_file_of_the_model_as_it_is(task):
    """Half of the bound would be less than half of the file."""
    file = len(draft(task.model, process=task.process)[0])
    strategy = [steps.PruneChannels(gradual=False, budget={"tflite_bytes": 0.6}), steps.Quantize(precision="int8")]
    made = carry_out(task, strategy, task.folder.inner("share"))
    assert 0.55 * file < made.candidate.tflite_bytes <= 0.6 * file
