"""A residual network loses half of its multiply-accumulates: seen, planned, cut, tuned, and written as int8.

python examples/prune_channels.py
"""

import keras
import numpy as np
from rich.console import Console

import tfstruct
from tfstruct import Recipe, demo, to_tflite
from tfstruct.graph import Each, rule
from tfstruct.surgery import apply, plan_channels, recalibrate_batch_norm

layers = keras.layers


@keras.saving.register_keras_serializable("examples")
class ChannelGate(layers.Layer):
    """y = x * sigmoid(gate), one gate a channel: a layer that tfstruct does not know."""

    def build(self, shape):
        self.gate = self.add_weight(shape=(shape[-1],), initializer="ones", name="gate")

    def call(self, x):
        return x * keras.ops.sigmoid(self.gate)


@rule(ChannelGate)
def channel_gate(call):
    channels = call.input.axes[-1]
    call.weight(call.op.gate, Each(channels))  # one entry for each channel that passes
    return call.input.axes


def build() -> keras.Model:
    inputs = keras.Input((8, 8, 1), name="digit")
    x = layers.Rescaling(1 / 16)(inputs)
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="stem")(x)
    for block in range(2):
        y = layers.Conv2D(32, 1, use_bias=False, name=f"widen{block}")(x)
        y = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(y))
        y = layers.DepthwiseConv2D(3, padding="same", name=f"depthwise{block}")(y)
        y = ChannelGate(name=f"gate{block}")(y)
        x = layers.Add()([x, layers.Conv2D(16, 1, name=f"narrow{block}")(y)])
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax", name="classes")(x), name="gated")


def fit(model: keras.Model, x, y, rate: float, epochs: int) -> None:
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, batch_size=64, epochs=epochs, verbose=0)


def main(epochs: int = 12) -> None:
    keras.utils.set_random_seed(0)
    console = Console(width=120)
    (x, y), (test_x, test_y) = demo.digits()
    model = build()
    fit(model, x, y, 3e-3, epochs)

    console.print(tfstruct.profile(model).table())  # what costs what
    console.print(tfstruct.explain(model).table())  # what can go, and with what

    # The least important channels go until both budgets are met; widths stay multiples of 4.
    plan = plan_channels(model, {"macs": 0.5, "params": 0.6}, criterion="l2", round_to={"Conv2D": 4})
    console.print(plan.table())
    smaller = apply(model, plan)
    recalibrate_batch_norm(smaller, x)
    fit(smaller, x, y, 1e-3, epochs // 2)

    result = to_tflite(smaller, Recipe(precision="int8", calibration=x, verification=(test_x, test_y)))
    for name, net in (("whole", model), ("smaller", smaller)):
        accuracy = np.mean(net.predict(test_x, verbose=0).argmax(1) == test_y)
        console.print(f"{name}: {net.count_params():,} parameters, test accuracy {accuracy:.1%}", highlight=False)
    console.print(f"int8 file: {result.report.size:,} bytes", highlight=False)


if __name__ == "__main__":
    main()
