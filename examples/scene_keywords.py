"""Keyword spotting for a microcontroller: log-mel spectra, a depthwise separable network, a C array.

python examples/scene_keywords.py [FOLDER]

The words are generated: a voice's pitch through two formants that glide from vowel to vowel, by many voices, anywhere
in the second, in noise. The last class is noise alone.
"""

import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import tfstruct
from tfstruct import augment
from tfstruct.callbacks import PruneChannels, QuantizeAware
from tfstruct.convert.micro import write_c_array
from tfstruct.distill import Distill

RATE = 8000
FORMANTS = {"a": (800, 1300), "e": (500, 1900), "i": (300, 2300), "o": (480, 900), "u": (320, 750)}
WORDS = ("ai", "ia", "au", "ua", "eo", "oe", "iue", "uia", "aoi", "")


def spoken(word: str, rng) -> np.ndarray:
    """One second of sound."""
    sound = rng.normal(0, 10 ** rng.uniform(-1.7, -0.3), RATE)
    if not word:
        return sound
    length = int(rng.uniform(0.35, 0.6) * RATE)
    at = np.linspace(0, len(word) - 1, length)
    voice, pitch = rng.uniform(0.85, 1.2), rng.uniform(90, 220)
    phase = 2 * np.pi * np.cumsum(pitch * (1 + 0.1 * rng.normal() * np.linspace(-1, 1, length))) / RATE
    k = np.arange(1, int(3600 / pitch))[:, None]
    loud = sum(
        np.exp(-(((k * pitch - voice * np.interp(at, range(len(word)), [FORMANTS[v][i] for v in word])) / 180) ** 2))
        for i in range(2)
    )
    said = (loud * np.sin(k * phase)).sum(0) * np.hanning(length) ** 0.3
    start = rng.integers(0, RATE - length)
    sound[start : start + length] += rng.uniform(0.03, 0.2) * said
    return sound


def heard(count: int, seed: int):
    """(log-mel spectra of 49 frames by 32 bands, classes)."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, len(WORDS), count)
    sounds = np.stack([spoken(WORDS[c], rng) for c in y]).astype("float32")
    mel = layers.MelSpectrogram(256, 160, 256, sampling_rate=RATE, num_mel_bins=32, min_freq=60, max_freq=3800)
    spectra = np.concatenate([np.asarray(mel(sounds[i : i + 100])) for i in range(0, count, 100)])
    return np.moveaxis(spectra, 1, 2)[:, :49, :, None] / 40.0, y


def network() -> keras.Model:
    def rest(x):
        return layers.ReLU(6.0)(layers.BatchNormalization()(x))

    x = spectra = keras.Input((49, 32, 1), name="log_mel")
    x = rest(layers.Conv2D(32, (10, 4), (2, 2), "same", use_bias=False, name="stem")(x))
    for i in range(4):
        x = rest(layers.DepthwiseConv2D(3, padding="same", use_bias=False, name=f"depthwise{i}")(x))
        x = rest(layers.Conv2D(32, 1, use_bias=False, name=f"pointwise{i}")(x))
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(spectra, layers.Dense(len(WORDS), activation="softmax", name="word")(x), name="keywords")


def main(folder: str = ".", epochs: int = 15, count: int = 3000) -> dict[str, float]:
    keras.utils.set_random_seed(0)
    (x, y), test = heard(count, 0), heard(600, 1)
    batches = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(count, seed=0).batch(50)
    changed = augment.spectrograms("light")(batches)  # moved in time, bands blanked

    def fit(model, rate, epochs, *callbacks):
        rate = keras.optimizers.schedules.CosineDecay(rate, epochs * len(batches))
        model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
        model.fit(changed, epochs=epochs, verbose=0, callbacks=list(callbacks))
        # Behind augmentation, dropout and few steps the moving statistics are not those of the data.
        tfstruct.recalibrate_batch_norm(model, x[:1000])

    def accuracy(model):
        return float(np.mean(model.predict(test[0], verbose=0).argmax(1) == test[1]))

    model = network()
    fit(model, 5e-3, epochs)
    scores = {"trained": accuracy(model)}

    student = keras.models.clone_model(model)
    student.set_weights(model.get_weights())
    pruner = PruneChannels({"macs": 0.4})
    fit(student, 3e-3, epochs, pruner, Distill(model))
    print(pruner.report)
    small = tfstruct.shrink(student).model
    scores["0.4 of the work"] = accuracy(small)

    aware = QuantizeAware("int8")
    fit(small, 5e-4, max(1, epochs // 4), aware)
    file = tfstruct.to_tflite(aware.twin, verification=test, measure_latency=False)
    scores["int8 file"] = file.report.verification.tflite.accuracy
    print(file.report)
    print(tfstruct.check_target(file.content, "micro"))
    write_c_array(file.content, pathlib.Path(folder) / "keywords.tflite")
    for what, score in scores.items():
        print(f"{what}: accuracy {score:.1%}")
    return scores


if __name__ == "__main__":
    main(*sys.argv[1:])
