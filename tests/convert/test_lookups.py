"""Tables of embeddings in files whose weights alone are integers: a scale for each row, floats out."""

import keras
import numpy as np
import pytest
from keras import layers

import tfstruct
from tfstruct.convert import flatbuffer
from tfstruct.convert.runtime import Runtime

WORDS, SIZE = 60, 12
IDS = np.random.default_rng(1).integers(0, WORDS, (4, 5)).astype("int32")


def plain():
    x = keras.Input((5,), dtype="int32")
    return keras.Model(x, layers.Embedding(WORDS, SIZE, name="words")(x))


def masked():
    x = keras.Input((5,), dtype="int32")
    y = layers.Embedding(WORDS, SIZE, mask_zero=True, name="words")(x)
    return keras.Model(x, layers.Dense(3)(layers.GlobalAveragePooling1D()(y)))


def tied():
    """The table also makes the scores of the words, as in language models."""
    x = keras.Input((5,), dtype="int32")
    words = layers.Embedding(WORDS, SIZE, name="words")
    y = layers.Dense(SIZE, activation="relu")(words(x))
    words.build()
    return keras.Model(x, keras.ops.matmul(y, keras.ops.transpose(words.embeddings)))


def floats():
    x = keras.Input((5,))
    return keras.Model(x, layers.Dense(2)(layers.Embedding(WORDS, SIZE, name="words")(x)))


def two_tables():
    x = keras.Input((5,), dtype="int32")
    where = layers.Embedding(5, SIZE, name="places")(keras.ops.arange(5))
    return keras.Model(x, layers.Dense(2)(layers.Embedding(WORDS, SIZE, name="words")(x) + where))


def lookups(file) -> list[str]:
    return [
        op.name for op in flatbuffer.operators(file.content, file.layers) if op.name in ("GATHER", "EMBEDDING_LOOKUP")
    ]


@pytest.fixture(scope="module")
def of_rows():
    keras.utils.set_random_seed(3)
    model = plain()
    table = model.get_layer("words").embeddings
    table.assign(np.random.default_rng(0).normal(size=table.shape) * np.geomspace(1e-3, 10, WORDS)[:, None])
    return model, tfstruct.to_tflite(model, "dynamic", verification=IDS, batch_size=4, measure_latency=False)


def test_each_row_has_a_scale_of_its_own(of_rows):
    model, file = of_rows
    table = np.asarray(model.get_layer("words").embeddings)
    step = np.abs(table).max(1, keepdims=True) / 127
    by_hand = (np.round(table / step) * step)[IDS]
    runtime = Runtime(file.content)
    (made,) = runtime.run({runtime.inputs[0].name: IDS}).values()
    assert made == pytest.approx(by_hand, rel=1e-5, abs=1e-7)
    assert not file.report.warnings


def test_the_table_can_be_put_back(of_rows):
    model, file = of_rows
    table = np.asarray(model.get_layer("words").embeddings)
    back = np.asarray(tfstruct.convert.dequantize(file, model).get_layer("words").embeddings)
    assert np.abs(back - table).max(1) / np.abs(table).max(1) == pytest.approx(0.5 / 127, abs=0.5 / 127)


@pytest.mark.parametrize("build", [masked, tied, floats, two_tables])
@pytest.mark.parametrize("recipe", [{"precision": "dynamic"}, {"precision": "int4", "activations": "float32"}])
def test_files_agree_with_their_models(build, recipe):
    keras.utils.set_random_seed(0)
    model = build()
    data = IDS.astype(model.inputs[0].dtype)
    file = tfstruct.to_tflite(model, verification=data, measure_latency=False, **recipe)
    assert "EMBEDDING_LOOKUP" in lookups(file)
    least = 30 if recipe["precision"] == "dynamic" else 12
    assert min(one.sqnr_db for one in file.report.verification.outputs) > least
    tensors = flatbuffer.read(file.content).subgraphs[0].tensors
    held = {flatbuffer.dtype_name(tensor) for tensor in tensors if tensor.name.startswith(b"words/kernel")}
    assert "int8" in held and held <= {"int8", "int4"}  # a tied one may be stored for each of its kernels


def test_a_table_that_is_kept_in_float_is_gathered():
    file = tfstruct.to_tflite(
        two_tables(), "dynamic", layers={"words": "float32"}, verification=IDS, measure_latency=False
    )
    assert lookups(file).count("GATHER") == 1


def test_what_looks_nothing_up_is_left_alone():
    x = keras.Input((5, 4))
    file = tfstruct.to_tflite(
        keras.Model(x, keras.ops.take(x, [3, 1], axis=1)), "dynamic", measure_latency=False
    )  # fmt: skip
    assert "EMBEDDING_LOOKUP" not in lookups(file)
