"""A generative decoder: a transformer that writes letter by letter, cut, taught by what it was, and run as a file.

python examples/scene_decoder.py [FOLDER]

It learns from the docstrings of Keras, which lie on this machine; the score is in bits a letter.
"""

import inspect
import pathlib
import sys

import keras
import numpy as np
from keras import layers, ops

import tfstruct
from tfstruct.distill import Distill, Logits

CONTEXT = 64
LETTERS = "\n ()*+,-./0123456789:=[]_`abcdefghijklmnopqrstuvwxyz"


def text() -> np.ndarray:
    """Ids of letters."""
    places = (keras.layers, keras.ops, keras.optimizers, keras.losses, keras.metrics, keras.callbacks)
    said = "\n\n".join(inspect.getdoc(getattr(p, n)) or "" for p in places for n in sorted(dir(p)) if n[0] != "_")
    return np.array([LETTERS.index(letter) for letter in said.lower() if letter in LETTERS], "int32")


def pieces(ids: np.ndarray, count: int, seed: int):
    """(contexts, each shifted by one: what comes next at every place)."""
    starts = np.random.default_rng(seed).integers(0, len(ids) - CONTEXT, count)
    windows = ids[starts[:, None] + np.arange(CONTEXT + 1)]
    return windows[:, :-1], windows[:, 1:]


def decoder(width: int = 64, depth: int = 2) -> keras.Model:
    inputs = keras.Input((CONTEXT,), dtype="int32", name="letters")
    x = layers.Embedding(len(LETTERS), width, name="letter")(inputs)
    x = x + layers.Embedding(CONTEXT, width, name="place")(ops.arange(CONTEXT))
    for i in range(depth):
        y = layers.LayerNormalization(name=f"norm{i}a")(x)
        x = x + layers.MultiHeadAttention(4, width // 4, name=f"attention{i}")(y, y, use_causal_mask=True)
        y = layers.LayerNormalization(name=f"norm{i}b")(x)
        x = x + layers.Dense(width, name=f"down{i}")(layers.Dense(4 * width, activation="relu", name=f"up{i}")(y))
    logits = layers.Dense(len(LETTERS), name="next")(layers.LayerNormalization(name="norm")(x))
    return keras.Model(inputs, logits, name="decoder")


def fit(model: keras.Model, data, rate: float, epochs: int, *callbacks) -> None:
    rate = keras.optimizers.schedules.CosineDecay(rate, epochs * -(-len(data[0]) // 64))
    model.compile(keras.optimizers.AdamW(rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(*data, batch_size=64, epochs=epochs, verbose=0, callbacks=list(callbacks))


def bits(logits, following) -> float:
    """Mean cross-entropy in bits a letter, over the second half of each context."""
    logits, following = np.asarray(logits)[:, CONTEXT // 2 :], following[:, CONTEXT // 2 :]
    logits = logits - logits.max(-1, keepdims=True)
    chance = np.take_along_axis(logits, following[..., None], -1)[..., 0] - np.log(np.exp(logits).sum(-1))
    return float(-chance.mean() / np.log(2))


def written(file, start: str, count: int, seed: int = 0) -> str:
    """What the file goes on with, letter by letter."""
    rng, ids = np.random.default_rng(seed), [LETTERS.index(letter) for letter in start]
    for _ in range(count):
        context = ids[-CONTEXT:]
        padded = np.array([context + [0] * (CONTEXT - len(context))], "int32")  # what follows is not looked at
        logits = np.asarray(file.predict(padded))[0, len(context) - 1].astype("float64") / 0.7
        chances = np.exp(logits - logits.max())
        ids.append(int(rng.choice(len(LETTERS), p=chances / chances.sum())))
    return "".join(LETTERS[i] for i in ids)


def main(folder: str = ".", epochs: int = 16, count: int = 5000) -> dict[str, float]:
    keras.utils.set_random_seed(0)
    ids = text()
    cut = int(0.9 * len(ids))
    train, test = pieces(ids[:cut], count, 0), pieces(ids[cut:], 400, 1)
    model = decoder()
    fit(model, train, 4e-3, epochs)
    scores = {"trained": bits(model.predict(test[0], verbose=0), test[1])}

    # Heads, the widths inside them and of the feed-forward layers; the width of the stream would cost more.
    plan = tfstruct.plan_channels(model, "macs=50%", round_to=8)
    student = tfstruct.apply(model, plan)
    scores["half of the work, as it is"] = bits(student.predict(test[0], verbose=0), test[1])
    fit(student, train, 2e-3, epochs, Distill(model, Logits(temperature=2.0)))
    scores["taught"] = bits(student.predict(test[0], verbose=0), test[1])
    print(plan)

    for precision in ("dynamic", "int8"):
        file = tfstruct.to_tflite(
            student, precision, calibration=train[0][:200], verification=test[0][:50], float_io=True, allow_float=True,
            measure_latency=False,
        )  # fmt: skip
        print(file.report)
        scores[f"{precision} file"] = bits(file.predict(test[0]), test[1])
        file.save(pathlib.Path(folder) / f"decoder.{precision}.tflite")
    for what, score in scores.items():
        print(f"{what}: {score:.2f} bits a letter")
    print(
        f"{model.count_params():,} parameters before, {student.count_params():,} now\n\n{written(file, 'args:', 200)}"
    )
    return scores


if __name__ == "__main__":
    main(*sys.argv[1:])
