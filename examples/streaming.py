"""A keyword spotter that takes two frames a call, in float and in int8, run as a device runs it.

python examples/streaming.py [spotter.tflite]
"""

import sys

import keras
import numpy as np
from keras import layers

import tfstruct
from tfstruct.convert import StreamingFile


def spotter() -> keras.Model:
    """Like the keyword spotter of MLPerf Tiny: half a second of 10 features a frame, every second frame, no padding in
    time."""
    x = sound = keras.Input((49, 10, 1), name="sound")
    x = layers.Conv2D(24, (9, 4), strides=2, use_bias=False, name="stem")(x)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    for i in range(2):
        x = layers.ZeroPadding2D(((0, 0), (1, 1)))(x)  # around features alone
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(layers.DepthwiseConv2D(3, name=f"depthwise{i}")(x)))
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(layers.Conv2D(24, 1, name=f"pointwise{i}")(x)))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(sound, layers.Dense(4, activation="softmax", name="words")(x), name="spotter")


def sounds(count: int, frames: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise with one of three sweeps in it, or none."""
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 4, count)
    x = rng.normal(size=(count, frames, 10, 1)).astype("float32") * 0.4
    t, pitch = np.arange(40), np.arange(10)
    for i, word in enumerate(words):
        start = rng.integers(0, frames - 39)
        if word:
            peak = {1: t / 4, 2: 9 - t / 4, 3: 5 + 4 * np.sin(t / 3)}[word]
            x[i, start : start + 40, :, 0] += 2 * np.exp(-((pitch - peak[:, None]) ** 2))
    return x, words


def main(path: str = "spotter.tflite", epochs: int = 8) -> None:
    keras.utils.set_random_seed(0)
    model = spotter()
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(*sounds(1000, 49, seed=1), epochs=epochs, batch_size=32, verbose=0)

    streaming = tfstruct.to_streaming(model)
    print(streaming.report, "\n")

    # The same as the model on each window, with each frame computed once.
    long, _ = sounds(1, 400, seed=2)
    windows = np.concatenate([long[:, i : i + 49] for i in range(0, 352, 2)])
    apart = np.abs(streaming.run(long)[0] - model.predict(windows, verbose=0)).max()
    print(f"largest difference from the model on {len(windows)} windows: {apart:.1e}\n")

    many, _ = sounds(40, 150, seed=3)
    file = tfstruct.to_tflite(streaming, "int8", calibration=many)
    file.save(path)
    print(file.report, "\n")

    # On the device: one call a hop; states are bytes that go round.
    sound, (word,) = sounds(1, 100, seed=9)
    stream = StreamingFile(path).start()
    for n in range(50):
        probabilities = stream(sound[:, 2 * n : 2 * n + 2])
        if stream.ready and probabilities.argmax() and probabilities.max() > 0.8:
            print(f"frame {2 * n + 2}: word {probabilities.argmax()} ({probabilities.max():.0%}); it was word {word}")
            break


if __name__ == "__main__":
    main(*sys.argv[1:])
