"""Text classifiers of custom layers and of KerasHub, on real text: compressed to half of their int8 files."""

import inspect
import re
from collections import Counter

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from published_sequences import TokenAndPosition, TransformerBlock

from tfstruct import compress, surgery, to_tflite
from tfstruct.compression import steps
from tfstruct.convert import Recipe

LENGTH, WORDS = 24, 1200


def paragraphs(home) -> list[list[str]]:
    """Paragraphs of the documentation of a library: lists of words."""
    found = {}
    for name in dir(home):
        for part in (inspect.getdoc(getattr(home, name, None)) or "").split("\n\n"):
            words = re.findall(r"[a-z]+", part.lower())
            if len(words) >= 8 and ">>>" not in part:
                found[" ".join(words)] = words
    return list(found.values())


def documentation():
    """Which library a paragraph is from: NumPy, Keras's layers, TensorFlow's operations. (ids, classes)."""
    texts = [(words, kind) for kind, home in enumerate((np, keras.layers, tf.raw_ops)) for words in paragraphs(home)]
    common = Counter(word for words, _ in texts for word in words).most_common(WORDS - 2)
    number = {word: i + 2 for i, (word, _) in enumerate(common)}
    ids = np.zeros((len(texts), LENGTH), "int32")
    for row, (words, _) in zip(ids, texts, strict=True):
        own = [number.get(word, 1) for word in words[:LENGTH]]
        row[: len(own)] = own
    order = np.random.default_rng(0).permutation(len(texts))
    return ids[order], np.array([kind for _, kind in texts])[order]


@pytest.mark.slow
def test_half_of_its_int8_file(tmp_path):
    keras.utils.set_random_seed(0)
    x, y = documentation()
    held = len(x) // 5
    (x_test, y_test), (x, y) = (x[:held], y[:held]), (x[held:], y[held:])
    inputs = keras.Input((LENGTH,), dtype="int32", name="ids")
    h = TokenAndPosition(LENGTH, WORDS, 48, name="embed")(inputs)
    for i in range(3):
        h = TransformerBlock(48, 4, 96, name=f"block{i}")(h)
    h = layers.GlobalAveragePooling1D()(h)
    model = keras.Model(inputs, layers.Dense(3, activation="softmax", name="kind")(h), name="documentation")
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, epochs=6, batch_size=64, verbose=0)
    before = model.evaluate(x_test, y_test, verbose=0)[1]
    assert before > 0.85

    opened = surgery.open_layers(model).model
    opened.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    plain = len(to_tflite(opened, Recipe(precision="int8", calibration=x[:200])).content)
    made = compress(
        opened, (x, y), (x_test, y_test), {"tflite_bytes": plain // 2}, epochs=6, workdir=tmp_path / "work",
        strategy=[
            steps.DropBlocks(count=2), steps.PruneChannels(criterion="activation", gradual=False), steps.Quantize(),
        ],
    )  # fmt: skip
    size = len(made.file.content)
    after = np.mean(made.file.predict(x_test).argmax(-1) == y_test)
    print(f"{plain} -> {size} bytes, accuracy {before:.3f} -> {after:.3f}, {len(x)} paragraphs\n{made.report}")
    assert size <= plain // 2
    assert after > before - 0.05


@pytest.mark.slow
def test_a_task_model_of_keras_hub(tmp_path):
    """As a user would: fine-tuned, then `compress` decides. Its inputs leave the length open."""
    models = pytest.importorskip("keras_hub", reason="needs KerasHub (keras-hub)").models
    keras.utils.set_random_seed(0)
    ids, kinds = documentation()
    held = len(ids) // 5

    def inputs(ids):
        return {"token_ids": ids, "segment_ids": np.zeros_like(ids), "padding_mask": (ids != 0).astype("int32")}

    test, train = (inputs(ids[:held]), kinds[:held]), (inputs(ids[held:]), kinds[held:])
    backbone = models.BertBackbone(
        vocabulary_size=WORDS, num_layers=3, num_heads=4, hidden_dim=48, intermediate_dim=96, max_sequence_length=LENGTH
    )
    model = models.BertTextClassifier(backbone, num_classes=3, preprocessor=None, activation="softmax")
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(*train, epochs=6, batch_size=64, verbose=0)
    before = model.evaluate(*test, verbose=0)[1]
    assert before > 0.85

    calibration = {name: array[:200] for name, array in train[0].items()}
    plain = len(to_tflite(model, Recipe(precision="int8", calibration=calibration)).content)
    made = compress(model, train, test, {"tflite_bytes": plain // 2}, epochs=6, workdir=tmp_path / "work")
    size = len(made.file.content)
    after = np.mean(made.file.predict(test[0]).argmax(-1) == test[1])
    print(f"{plain} -> {size} bytes, accuracy {before:.3f} -> {after:.3f}, {len(ids) - held} paragraphs\n{made.report}")
    assert size <= plain // 2
    assert after > before - 0.05
    assert f"the result has those of the training data: 'padding_mask' takes samples of ({LENGTH},)" in str(made.report)
