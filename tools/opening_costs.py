"""What opening custom layers costs: CPU seconds a layer, and memory, each network in a process of its own."""

import json
import multiprocessing
import resource
import time

import keras
from interleaved import Table
from networks import custom_encoder

SIZES = {"4 blocks of width 64": (4, 64), "12 blocks of width 128": (12, 128), "4 blocks of width 768": (4, 768)}
QUICK = ("4 blocks of width 64",)


def opening(rounds: int, quick: bool = False, folder: str | None = None) -> None:
    """`surgery.open_layers` of encoders of custom layers. Memory is the most that the process held above what it held
    after it had run the model on 3 samples with their gradients."""
    table = Table("opening", "opening custom layers", {"rounds": 1}, folder)
    for name in QUICK if quick else SIZES:
        table.row(name, lambda name=name: _apart(name))
    table.show()


def _apart(name: str) -> dict:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return json.loads(pool.apply(_row, SIZES[name]))


def _row(depth: int, width: int) -> str:
    import tensorflow as tf

    from tfstruct import surgery

    model = custom_encoder(depth, width)
    x = keras.ops.ones((3, *model.input_shape[1:]), "int32")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(x, training=True))
    tape.gradient(loss, model.trainable_variables)
    del tape, loss
    before, start = _peak(), time.process_time()
    found = surgery.open_layers(model)
    seconds, megabytes = time.process_time() - start, _peak() - before
    layers = len(found.opened)
    assert layers and not found.opaque
    assert {id(v) for v in found.model.variables} == {id(v) for v in model.variables}
    return json.dumps({
        "layers opened": layers, "CPU s": seconds, "CPU s a layer": seconds / layers,
        "MB of weights": sum(4 * v.value.shape.num_elements() for v in model.variables) / 2**20,
        "MB above a training step": max(0.0, megabytes),
    })  # fmt: skip


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
