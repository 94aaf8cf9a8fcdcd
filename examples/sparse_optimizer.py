"""Half of the channels are trained away while the network trains, and removed without changing its outputs.

python examples/sparse_optimizer.py
"""

import keras
import numpy as np

from tfstruct import demo, optimizers
from tfstruct.surgery import shrink

layers = keras.layers


def block(x, width: int, name: str):
    y = layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"{name}_a")(x)
    y = layers.ReLU()(layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(y))
    y = layers.Conv2D(x.shape[-1], 3, padding="same", name=f"{name}_b")(y)
    return layers.ReLU()(layers.Add()([x, y]))


def build() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1), name="digit")
    x = layers.Rescaling(1 / 16)(inputs)
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="stem")(x)
    x = layers.MaxPooling2D()(block(x, 16, "block1"))
    x = layers.GlobalAveragePooling2D()(block(x, 32, "block2"))
    return keras.Model(inputs, layers.Dense(10, activation="softmax", name="classes")(x), name="digits")


def accuracy(model, x, y) -> float:
    return float(np.mean(model.predict(x, verbose=0).argmax(1) == y))


def main(epochs: int = 16) -> None:
    (x, y), test = demo.digits()
    steps = epochs * -(-len(x) // 64)

    def trained(sparse: bool) -> keras.Model:
        model = build()
        optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(3e-3, steps))
        if sparse:
            # A few steps to warm up, half of them to bring channels to zero, the rest to settle.
            optimizer = optimizers.StructuredSparse(
                optimizer, model, target=0.5, warmup_steps=steps // 10, pruning_steps=steps // 2, periods=10
            )
        model.compile(optimizer, "sparse_categorical_crossentropy")
        model.fit(x, y, batch_size=64, epochs=epochs, verbose=0)
        if sparse:
            print(f"channels at zero: {model.optimizer.zeros()}, {model.optimizer.zero_channels} were asked for")
        return model

    plain, sparse = trained(False), trained(True)
    shrunk = shrink(sparse)
    print(shrunk)
    for name, model in (("plain", plain), ("sparse", sparse), ("shrunk", shrunk.model)):
        print(f"{name}: {model.count_params():,} parameters, test accuracy {accuracy(model, *test):.1%}")


if __name__ == "__main__":
    main()
