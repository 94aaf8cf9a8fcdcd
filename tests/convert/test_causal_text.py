"""A small causal transformer, trained on English text, in int8."""

import pydoc_data.topics

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfstruct import Recipe
from tfstruct.convert.tflite import Converter

LENGTH = 32


def text() -> tuple[np.ndarray, int]:
    """Sequences of the Python manual as letters, one more than the model reads, and how many letters there are."""
    written = "".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))
    letters = sorted(set(written))
    codes = np.searchsorted(letters, list(written)).astype("int32")
    rows = codes[: len(codes) // (LENGTH + 1) * (LENGTH + 1)].reshape(-1, LENGTH + 1)
    return np.random.default_rng(0).permutation(rows), len(letters)


def transformer(letters: int, width: int = 48) -> keras.Model:
    tokens = keras.Input((LENGTH,), dtype="int32", name="tokens")
    x = layers.Embedding(letters, width)(tokens)
    x = x + layers.Embedding(LENGTH, width)(ops.arange(LENGTH))
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(4, width // 4)(y, y, use_causal_mask=True)
        y = layers.Dense(2 * width, activation="relu")(layers.LayerNormalization()(x))
        x = x + layers.Dense(width)(y)
    return keras.Model(tokens, layers.Dense(letters)(layers.LayerNormalization()(x)))


@pytest.mark.slow
def test_it_predicts_as_many_letters_as_in_float(process):
    keras.utils.set_random_seed(0)
    rows, letters = text()
    model = transformer(letters)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(4e-3), loss)
    model.fit(rows[:9600, :-1], rows[:9600, 1:], batch_size=32, epochs=2, verbose=0)
    held = rows[9600:9900]
    with Converter(model, process=process) as converter:
        made = converter.convert(Recipe(precision="int8", calibration=rows[:200, :-1]))
    outputs = model.predict(held[:, :-1], verbose=0), made.predict(held[:, :-1])
    right, rounded = (float(np.mean(scores.argmax(-1) == held[:, 1:])) for scores in outputs)
    most_frequent = np.bincount(held[:, 1:].ravel()).max() / held[:, 1:].size
    print(f"accuracy {right:.4f} in float, {rounded:.4f} in int8; the most frequent letter {most_frequent:.4f}")
    assert right > 1.5 * most_frequent  # it has learned
    assert rounded > right - 0.01
