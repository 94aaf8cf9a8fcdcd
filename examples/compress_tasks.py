"""Four tasks, each compressed to half of the bytes of its plain int8 file, within one point of its score.

python examples/compress_tasks.py [image|text|sensors|machine [AUTO_ENCODER.h5]]

Digits by convolutions; the mood of generated sentences by an embedding and a transformer block; generated gestures by a
GRU; faults in a generated machine noise by a dense auto-encoder, such as that of MLPerf Tiny.
"""

import sys

import keras
import numpy as np
from compress_model import build as build_image
from rich.console import Console

from tfstruct import compress, demo, legacy

layers = keras.layers


def image(rng):
    (x, y), test = demo.digits()
    return build_image(), (x[:1000], y[:1000]), (x[1000:], y[1000:]), test


def text(rng, words=400, length=20):
    """Words with a mood of -1, 0 or 1; the word 1 turns the mood of the next one round. The class is the sign."""
    moods = rng.choice([-1, 0, 0, 1], words)
    moods[:2] = 0

    def sentences(count):
        x = rng.integers(2, words, (4 * count, length))
        x[rng.random(x.shape) < 0.15] = 1
        turned = np.where(np.roll(x == 1, 1, axis=1), -moods[x], moods[x])[:, 1:].sum(1)
        clear = np.flatnonzero(turned)[:count]
        return x[clear], (turned[clear] > 0).astype("int64")

    inputs = keras.Input((length,), dtype="int32", name="words")
    x = layers.Embedding(words, 32, name="embedding")(inputs)
    x = layers.Conv1D(32, 2, padding="causal", activation="relu", name="pairs")(x)
    x = layers.LayerNormalization()(layers.Add()([x, layers.MultiHeadAttention(4, 8, name="attention")(x, x)]))
    y = layers.Dense(32, name="narrow")(layers.Dense(128, activation="relu", name="wide")(x))
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(layers.Add()([x, y])))
    model = keras.Model(inputs, layers.Dense(2, activation="softmax", name="mood")(x), name="text")
    return model, sentences(8000), sentences(2000), sentences(2000)


def sensors(rng, steps=32):
    """Three axes: a swing, a circle, a shake, a push or rest, at any phase, with noise."""

    def gestures(count):
        y = rng.integers(0, 5, count)
        t = np.linspace(0, 2 * np.pi, steps)[None] + rng.uniform(0, 2 * np.pi, (count, 1))
        none, push = np.zeros_like(t), np.exp(-(((np.arange(steps)[None] - rng.integers(6, 26, (count, 1))) / 3) ** 2))
        axes = [(np.sin(t), none), (np.sin(t), np.cos(t)), (np.sin(6 * t), none), (push, none), (none, none)]
        x = np.stack([np.stack([*two, none], -1) for two in axes])[y, np.arange(count)]
        return (x + rng.normal(0, 0.35, x.shape)).astype("float32"), y

    inputs = keras.Input((steps, 3), name="motion")
    x = layers.Conv1D(32, 5, 2, "same", activation="relu", name="short")(inputs)
    x = layers.Conv1D(64, 5, 2, "same", activation="relu", name="longer")(x)
    x = layers.GRU(64, name="gru")(x)
    model = keras.Model(inputs, layers.Dense(5, activation="softmax", name="gesture")(x), name="sensors")
    return model, gestures(4000), gestures(1000), gestures(1000)


def machine(rng, file=None):
    """Spectra of a hum with harmonics, five frames of 128 bands; a fault adds a tone or takes one away."""
    bands = np.arange(128)[None]

    def tone(places, heights):
        return heights * np.exp(-(((bands - places) / 2) ** 2))

    def sounds(count, faults=0):
        base = 12 + rng.normal(0, 0.5, (count, 1))
        hum = sum(tone(k * base, rng.uniform(0.8, 1.2, (count, 1)) * 12 / k) for k in range(1, 9))
        hum[count - faults :] += tone(rng.uniform(20, 120, (faults, 1)), rng.uniform(2, 6, (faults, 1)))
        frames = hum[:, None] - 0.1 * bands[:, None] - 20 + rng.normal(0, 0.6, (count, 5, 128))
        x = frames.reshape(count, 640).astype("float32")
        return x, x

    if file is None:
        inputs = x = keras.Input((640,), name="spectra")
        for i, width in enumerate((128, 128, 128, 128, 8, 128, 128, 128, 128)):
            x = layers.ReLU()(layers.BatchNormalization()(layers.Dense(width, name=f"dense{i}")(x)))
        model = keras.Model(inputs, layers.Dense(640, name="spectra_again")(x), name="machine")
    else:
        model = legacy.load(file)
    return model, sounds(4000), sounds(1000, 500), sounds(1000, 500)


def area_under_roc_curve(x, again):
    """How often a fault, as the second half of the samples has, is rebuilt worse than a sound without."""
    errors = ((np.asarray(x) - np.asarray(again)) ** 2).mean(1)
    sound, faulty = np.split(errors, 2)
    return float((faulty[:, None] > sound[None]).mean())


def main(name: str = "image", *given: str, epochs: int = 30, drop: float = 0.01):
    keras.utils.set_random_seed(0)
    make = {"image": image, "text": text, "sensors": sensors, "machine": machine}[name]
    model, train, validation, test = make(np.random.default_rng(0), *given)
    rate = keras.optimizers.schedules.CosineDecay(3e-3, epochs * -(-len(train[0]) // 64))
    model.compile(keras.optimizers.Adam(rate), "mse" if name == "machine" else "sparse_categorical_crossentropy")
    model.fit(*train, batch_size=64, epochs=epochs, verbose=0)
    metric = {"metric": area_under_roc_curve, "greater_is_better": True} if name == "machine" else {}
    budget = {"tflite_bytes": 0.5, "accuracy_drop": drop}
    made = compress(model, train, validation, budget, test=test, epochs=epochs, learning_rate=3e-3, **metric)
    console = Console(width=120, highlight=False)
    console.print(made.report.table())
    share = made.report.result.tflite_bytes / made.report.plain.tflite_bytes
    tested = ", ".join(f"{who} {score:.2%}" for who, score in made.report.test.items())
    console.print(f"{name}: {share:.1%} of the bytes of plain int8; on the test data {tested}")
    return made.report


if __name__ == "__main__":
    main(*sys.argv[1:])
