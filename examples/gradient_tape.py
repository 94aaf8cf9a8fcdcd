"""The training loop of TensorFlow's documentation, with an optimizer of tfstruct and with one of Keras.

Nothing in the loop knows which of the two it runs: tfstruct's optimizers are Keras optimizers.

python examples/gradient_tape.py
"""

import keras
import numpy as np
import tensorflow as tf

from tfstruct import demo, optimizers
from tfstruct.optimizers import proximal

layers = keras.layers
EPOCHS = 8


def build() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Rescaling(1 / 16),
            layers.Conv2D(24, 3, activation="relu", name="conv"),
            layers.Flatten(name="flatten"),
            layers.Dense(64, activation="relu", name="hidden"),
            layers.Dense(10, name="classes"),
        ]
    )


def train(model: keras.Model, loss_of, optimizer: keras.optimizers.Optimizer, data, epochs: int = EPOCHS) -> None:
    """Model, loss, optimizer, `train` function, epochs."""
    optimizer.build(model.trainable_variables)

    @tf.function
    def step(inputs, labels):
        with tf.GradientTape() as tape:
            loss = loss_of(labels, model(inputs, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    for epoch in range(epochs):
        losses = [float(step(*batch)) for batch in data]
        if epoch in (0, epochs - 1):
            print(f"  epoch {epoch + 1}: loss {np.mean(losses):.4f}")


def main(epochs: int = EPOCHS) -> None:
    (x, y), (test_x, test_y) = demo.digits()
    data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=0).batch(64, drop_remainder=True)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    choices = {
        "keras.optimizers.Adam": lambda model: keras.optimizers.Adam(3e-3),
        "tfstruct Momentum": lambda model: optimizers.Momentum(0.5, beta=0.9),
        "tfstruct ProximalAdam, L1": lambda model: optimizers.ProximalAdam(proximal.L1(0.3), 3e-3),
        "tfstruct ProximalAdam, channel groups": lambda model: optimizers.ProximalAdam(
            proximal.ChannelGroups(model, 0.3), 3e-3
        ),
    }
    for name, make in choices.items():
        print(name)
        model = build()
        train(model, loss_of, make(model), data, epochs)
        accuracy = np.mean(model.predict(test_x, verbose=0).argmax(1) == test_y)
        kernels = [model.get_layer(layer).kernel.numpy() for layer in ("conv", "hidden")]
        zeros = sum((k == 0).sum() for k in kernels) / sum(k.size for k in kernels)
        gone = sum((k.reshape(-1, k.shape[-1]) == 0).all(0).sum() for k in kernels)
        print(f"  test accuracy {accuracy:.1%}, {zeros:.0%} of the hidden kernels zero, {gone} of 88 channels")


if __name__ == "__main__":
    main()
