"""A digits network loses three quarters of its work, and learns from what it was.

Three ways to train what is left: on the labels; with the whole network as teacher, from outputs computed once; and with
its inner layers too. Then quantization-aware, taught by the network in float.

python examples/distill.py
"""

import pathlib
import tempfile

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from tfstruct import demo, surgery
from tfstruct.callbacks import QuantizeAware
from tfstruct.distill import Attention, Distill, Features, Logits, cached
from tfstruct.quantize import Scheme

layers = keras.layers


def build() -> keras.Model:
    inputs = keras.Input((8, 8, 1), name="digit")
    x = layers.Rescaling(1 / 16)(inputs)
    x = layers.Conv2D(24, 3, padding="same", use_bias=False, name="stem")(x)
    x = layers.ReLU(name="stem_relu")(layers.BatchNormalization(momentum=0.9)(x))
    y = layers.Conv2D(24, 3, padding="same", activation="relu", name="inner")(x)
    x = layers.Add(name="join")([x, layers.Conv2D(24, 3, padding="same", name="back")(y)])
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax", name="classes")(x), name="digits")


def fit(model: keras.Model, data, epochs: int, *callbacks, rate: float = 6e-3) -> None:
    decay = keras.optimizers.schedules.CosineDecay(rate, epochs * int(data.cardinality()))
    model.compile(keras.optimizers.Adam(decay), "sparse_categorical_crossentropy")
    model.fit(data, epochs=epochs, verbose=0, callbacks=list(callbacks))


def main(epochs: int = 12) -> None:
    keras.utils.set_random_seed(0)
    console = Console(width=120, highlight=False)
    (x, y), (test_x, test_y) = demo.digits()
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(64)

    def accuracy(predict) -> str:
        return f"{np.mean(np.argmax(predict(test_x), axis=1) == test_y):.1%}"

    teacher = build()
    fit(teacher, data, 2 * epochs)
    plan = surgery.plan_channels(teacher, {"macs": 0.25})
    console.print(f"teacher: {teacher.count_params():,} parameters, test accuracy {accuracy(teacher.predict_on_batch)}")

    ways = {
        "labels alone": None,
        "outputs": Distill(teacher, Logits(temperature=2.0)),
        "outputs and inner layers": Distill(
            teacher, [Logits(2.0), Features("join"), Attention("inner")], weights=[1.0, 0.5, 0.5], kept=plan
        ),
    }
    table = Table(title="the smaller network, test accuracy")
    for column in ("learned from", "parameters", "accuracy"):
        table.add_column(column, justify="right" if column != "learned from" else "left")
    with tempfile.TemporaryDirectory() as folder:
        stored = cached(teacher, data, pathlib.Path(folder) / "teacher.rows")
        for name, taught in ways.items():
            student = surgery.apply(teacher, plan)
            fit(student, stored if name == "outputs" else data, epochs, *([taught] if taught else []))
            table.add_row(name, f"{student.count_params():,}", accuracy(student.predict_on_batch))
    console.print(table)
    console.print(ways["outputs and inner layers"].report.table())

    # Nothing is given: the teacher is a copy of the network before training, in float.
    aware = QuantizeAware(Scheme("int8", momentum=0.95))
    fit(student, data, max(epochs // 2, 1), Distill(student_loss_weight=0.2), aware, rate=1e-3)
    console.print(f"in integers, as its file will be: test accuracy {accuracy(aware.twin.predict_on_batch)}")


if __name__ == "__main__":
    main()
