"""How high may the learning rate be? A range test answers, and one cycle up to that rate trains in few epochs.

python examples/learning_rates.py
"""

import keras

from tfstruct import demo
from tfstruct.callbacks import AdaptiveBatchSize, LearningRateFinder
from tfstruct.schedules import OneCycle

layers = keras.layers


def build(rate) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Rescaling(1 / 16),
            layers.Conv2D(16, 3, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
            layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.SGD(rate, momentum=0.9), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def main(epochs: int = 8) -> None:
    (x, y), (test_x, test_y) = demo.digits()
    steps = epochs * -(-len(x) // 32)

    # 1. The range test: the rate rises with each batch until the loss diverges. The model stays as it was.
    finder = LearningRateFinder(lowest=1e-5, highest=10, steps=100)
    build(0.01).fit(x, y, batch_size=32, epochs=3, verbose=0, callbacks=[finder])
    print(finder.report)

    # 2. One cycle up to that rate, against Keras's default rate.
    for name, rate in (("constant 0.01", 0.01), ("one cycle", OneCycle(finder.suggestion, steps))):
        model = build(rate)
        model.fit(x, y, batch_size=32, epochs=epochs, verbose=0)
        print(f"{name}: {model.evaluate(test_x, test_y, verbose=0)[1]:.1%} of the test digits")

    # 3. The batch grows where the learning rate would fall: fewer steps over the same data.
    adaptive = AdaptiveBatchSize(32, maximum=256, policy={epochs // 2: 128, 3 * epochs // 4: 256})
    model = build(finder.suggestion)
    model.fit(adaptive.data(x, y), epochs=epochs, verbose=0, callbacks=[adaptive])
    accuracy = model.evaluate(test_x, test_y, verbose=0)[1]
    print(f"growing batch: {accuracy:.1%}, in {int(model.optimizer.iterations)} steps instead of {steps}")
    print("\n".join(adaptive.changes))


if __name__ == "__main__":
    main()
