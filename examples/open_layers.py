"""A small vision transformer of custom layers: opened, half of its multiply-accumulates cut, tuned, written as int8.

python examples/open_layers.py
"""

import keras
import numpy as np
from keras import layers, ops

import tfstruct
from tfstruct import demo, surgery, to_tflite


class Patches(layers.Layer):
    """Patches of 2 x 2 pixels, projected, with a class token and learned positions."""

    def build(self, shape):
        self.project = layers.Conv2D(32, 2, strides=2, name="project")
        self.project.build(shape)
        self.token = self.add_weight(shape=(1, 1, 32), name="token")
        self.positions = self.add_weight(shape=(1, 17, 32), name="positions")

    def call(self, x):
        x = self.project(x / 16.0)
        batch = ops.shape(x)[0]
        x = ops.reshape(x, (batch, 16, 32))
        return ops.concatenate([ops.broadcast_to(self.token, (batch, 1, 32)), x], axis=1) + self.positions


class Block(layers.Layer):
    """Attention and a feed-forward part, each behind a LayerNormalization and beside a shortcut."""

    def build(self, shape):
        self.norms = [layers.LayerNormalization(name=f"norm{i}") for i in range(2)]
        self.attention = layers.MultiHeadAttention(4, 8, name="attention")
        self.up, self.down = layers.Dense(64, activation="gelu", name="up"), layers.Dense(shape[-1], name="down")
        for part in (*self.norms, self.up):
            part.build(shape)
        self.attention.build(shape, shape)
        self.down.build((*shape[:-1], 64))

    def call(self, x):
        y = self.norms[0](x)
        x = x + self.attention(y, y)
        return x + self.down(self.up(self.norms[1](x)))


def build() -> keras.Model:
    inputs = keras.Input((8, 8, 1), name="digit")
    x = Patches(name="patches")(inputs)
    for i in range(2):
        x = Block(name=f"block{i}")(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax", name="classes")(x[:, 0]), name="transformer")


def fit(model: keras.Model, x, y, rate: float, epochs: int) -> None:
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, batch_size=64, epochs=epochs, verbose=0)


def main(epochs: int = 12) -> None:
    keras.utils.set_random_seed(0)
    (x, y), (test_x, test_y) = demo.digits()
    model = build()
    fit(model, x, y, 3e-3, epochs)
    walls = tfstruct.explain(model, open_layers=False)
    print(f"channels that can go before: {walls.share:.0%}")  # the custom layers are walls

    print(surgery.open_layers(model))  # the same layers and variables, with nothing hidden
    print(f"channels that can go: {tfstruct.explain(model).share:.0%}")  # opened by itself, as below
    smaller = surgery.apply(model, surgery.plan_channels(model, "macs=50%"))
    fit(smaller, x, y, 1e-3, epochs // 2)

    for name, net in (("whole", model), ("smaller", smaller)):
        accuracy = np.mean(net.predict(test_x, verbose=0).argmax(1) == test_y)
        print(f"{name}: {net.count_params():,} parameters, test accuracy {accuracy:.1%}")
    result = to_tflite(smaller, "int8", calibration=x, verification=(test_x, test_y))
    print(f"int8 file: {result.report.size:,} bytes, accuracy {result.report.verification.tflite.accuracy:.1%}")


if __name__ == "__main__":
    main()
