"""Models and files come back bit by bit; damage and code are refused; the report's figures are right."""

import gzip
import json
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo
from sweeps import sweep

import tfstruct
from tfstruct import Recipe, demo
from tfstruct.convert import Converter, flatbuffer
from tfstruct.convert.packing import arrays, container, lookup_tables
from tfstruct.convert.tflite_model import TFLiteModel
from tfstruct.errors import ConversionError, ModelError


def assert_equal_models(model, again):
    assert [v.path.split("/")[-1] for v in again.weights] == [v.path.split("/")[-1] for v in model.weights]
    for ours, theirs in zip(model.weights, again.weights, strict=True):
        assert ours.dtype == theirs.dtype
        assert keras.ops.convert_to_numpy(ours).tobytes() == keras.ops.convert_to_numpy(theirs).tobytes()


@pytest.fixture(scope="module")
def int8(digits_model, process):
    (x, _), _ = demo.digits()
    with Converter(digits_model, process=process) as converter:
        return converter.draft(Recipe(precision="int8", calibration=x))[0]


@pytest.fixture(scope="module")
def int4(digits_model, process):
    (x, _), _ = demo.digits()
    with Converter(digits_model, process=process) as converter:
        return converter.draft(Recipe(precision="int4", calibration=x, rounding="nearest"))[0]


@pytest.mark.parametrize("name", sweep(zoo.MODELS, ["conv_bn", "bidirectional", "several", "nested", "subclassed"]))
def test_keras_models_come_back(name, tmp_path):
    model = zoo.build(name)
    packed = tfstruct.pack(model)
    packed.save(tmp_path / "model.tfpack")
    again = tfstruct.unpack(tmp_path / "model.tfpack")
    assert type(again) is type(model)
    assert_equal_models(model, again)
    x = zoo.sample_inputs(model, 3)
    expected, got = (keras.tree.flatten(m.predict(x, verbose=0)) for m in (model, again))
    for a, b in zip(expected, got, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("policy", ["bfloat16", "float16", "mixed_float16", "float64"])
def test_weights_of_any_type_come_back(policy):
    layers = [keras.layers.Dense(5, dtype=policy, name="dense"), keras.layers.BatchNormalization(dtype=policy)]
    model = keras.Sequential([keras.Input((3,)), *layers])
    kernel = np.array(model.layers[0].kernel)
    kernel[0, :3] = np.nan, -0.0, np.inf
    model.layers[0].kernel.assign(kernel)
    packed = tfstruct.pack(model)
    assert packed.report.tensors[-2].dtype == model.layers[0].kernel.dtype
    assert_equal_models(model, tfstruct.unpack(packed))


def test_vocabularies_come_along():
    lookup = keras.layers.StringLookup(vocabulary=["ant", "bee", "cow"], output_mode="one_hot")
    model = keras.Sequential([keras.Input((1,), dtype="string"), lookup, keras.layers.Dense(2)])
    words = tf.constant([["cow"], ["ant"], ["elk"]])
    again = tfstruct.unpack(tfstruct.pack(model).content)
    np.testing.assert_array_equal(again(words), model(words))


def test_optimizer_is_left_out_unless_asked_for():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile("adam", "mse")
    model.fit(np.ones((8, 4)), np.ones((8, 3)), verbose=0)
    small, whole = tfstruct.pack(model), tfstruct.pack(model, optimizer=True)
    assert not tfstruct.unpack(small).compiled
    assert len(small.content) < len(whole.content) and len(small.report.tensors) == 2
    again = tfstruct.unpack(whole)
    for ours, theirs in zip(model.optimizer.variables, again.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_allclose(
        *(m.fit(np.ones((8, 4)), np.ones((8, 3)), verbose=0).history["loss"] for m in (model, again)), rtol=1e-6
    )


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_files_come_back(kind, request, tmp_path):
    content = request.getfixturevalue(kind)
    (tmp_path / "model.tflite").write_bytes(content)
    packed = tfstruct.pack(tmp_path / "model.tflite")
    assert tfstruct.unpack(packed) == content == tfstruct.unpack(tfstruct.pack(content).content)
    assert len(packed.content) == packed.report.packed < packed.report.gzip < packed.report.file == len(content)


def test_file_figures_agree_with_its_constants(int8, int4):
    report = tfstruct.pack(int8).report
    assert report.gzip == len(gzip.compress(int8, 9, mtime=0)) and report.kind == "tflite"
    model = flatbuffer.read(int8)
    tensors = {t.name.decode(): t for t in model.subgraphs[0].tensors}
    rows = {row.name: row for row in report.tensors}
    row, values = rows["conv2/kernel"], flatbuffer.constant(model, tensors["conv2/kernel"], np.int8)
    assert (row.dtype, row.shape, row.raw) == ("int8", values.shape, values.nbytes)
    counts = np.unique(values, return_counts=True)[1]
    assert (row.distinct, row.zeros) == (len(counts), (values == 0).sum())
    share = counts / counts.sum()
    assert row.entropy == pytest.approx(-share @ np.log2(share))
    bound = row.entropy * row.elements / 8
    assert bound <= row.huffman - 2 * row.distinct < bound * 1.02
    assert row.lookup == lookup_tables.table_bytes(values, 0)
    assert sum(r.packed for r in report.tensors) < report.packed
    nibbles = {r.name: r for r in tfstruct.pack(int4).report.tensors}["conv2/kernel"]
    assert nibbles.dtype == "int4" and nibbles.raw == -(-row.elements // 2) and nibbles.distinct <= 15


def test_what_sharing_and_sparsity_give():
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64, name="dense", use_bias=False)])
    rng = np.random.default_rng(0)
    sizes = {}
    normal = rng.normal(size=(64, 64)).astype("f4")
    for name, kernel in {
        "plain": normal,
        "four values": np.quantile(normal, [0.1, 0.4, 0.6, 0.9])[rng.integers(0, 4, normal.shape)],
        "pruned": np.where(np.abs(normal) < 1.6, 0, normal),
    }.items():
        model.layers[0].kernel.assign(kernel)
        (row,) = tfstruct.pack(model).report.tensors
        sizes[name] = row.packed
        assert row.name == "dense/kernel" and (row.distinct == 4) == (name == "four values")
    assert sizes["four values"] < 4096 * 2 / 8 + 64  # two bits a weight
    assert sizes["pruned"] < 0.2 * sizes["plain"]


def test_report_as_text_table_and_json(int8):
    report = tfstruct.pack(int8).report
    assert "conv2/kernel" in str(report) and f"{report.packed:,}" in str(report)
    assert report.table().row_count == len(report.tensors) + 1 + len(report.totals())
    data = json.loads(report.to_json())
    assert data["packed"] == report.packed and data["tensors"][0]["name"] == report.tensors[0].name
    assert [axes.get_xlabel() for axes in report.plot().axes] == ["bytes", "bits an element"]


def test_damage_is_one_clear_error(int8):
    content = tfstruct.pack(int8).content
    for damaged in (content[:-1], content[: len(content) // 2], content[:9], content + b"x"):
        with pytest.raises(ModelError, match="damaged or cut short"):
            tfstruct.unpack(damaged)
    for place in range(8, len(content), 997):
        changed = bytearray(content)
        changed[place] ^= 1
        with pytest.raises(ModelError, match="damaged or cut short"):
            tfstruct.unpack(bytes(changed))
    with pytest.raises(ModelError, match="is no packed model"):
        tfstruct.unpack(int8)


def with_checksum(body):
    return body + container._checksum(body)


def test_later_versions_are_refused(int8):
    content = bytearray(tfstruct.pack(int8).content[:-16])
    content[8] = 2
    with pytest.raises(ModelError, match="has version 2, this tfstruct reads 1"):
        tfstruct.unpack(with_checksum(bytes(content)))


def coded(values, width=1):
    return arrays.encode(arrays.bit_patterns(values, width)).content


@pytest.mark.parametrize(
    "description",
    [
        [],
        {},
        {"kind": "pickle", "layout": {}},
        {"kind": "tflite", "layout": {"places": ["a"]}},
        {"kind": "tflite", "layout": {"places": [5, 9]}},
        {"kind": "keras", "layout": {"weights": None, "members": ["../../escaped"]}},
        {"kind": "keras", "layout": {"weights": {"groups": [], "datasets": [["a", "O", [1], {}]]}, "members": []}},
        {"kind": "keras", "layout": {"weights": {"groups": [], "datasets": [["a", "<f4", [9], {}]]}, "members": []}},
    ],
)
def test_containers_made_to_mislead(description):
    content = container.write(description, [coded(b"12345678")])
    with pytest.raises(ModelError, match="is no packed model as tfstruct writes it"):
        tfstruct.unpack(content)


def test_a_bomb_is_refused_before_it_takes_memory():
    zeros = b"s\x08" + b"\xff\xff\xff\xff\x7f" + coded(b"") + b"r\x08\x00"  # 2^35 - 1 zeros of 8 bytes
    with pytest.raises(ModelError, match="more memory than any model"):
        tfstruct.unpack(container.write({"kind": "tflite", "layout": {"places": []}}, [zeros]))


def test_without_zstandard(int8, monkeypatch):
    squeezed = tfstruct.pack(int8).content
    monkeypatch.setitem(sys.modules, "zstandard", None)
    packed = tfstruct.pack(int8)
    assert packed.report.compressor == "lzma" and packed.report.zstd is None and "zstd -19" not in str(packed.report)
    assert tfstruct.unpack(packed) == int8
    with pytest.raises(ModelError, match=r"was packed with zstd. Install it: pip install 'tfstruct\[pack\]'"):
        tfstruct.unpack(squeezed)


def test_code_runs_only_on_trust():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x * 3)])
    content = tfstruct.pack(model).content
    with pytest.raises(ModelError, match="trust=True"):
        tfstruct.unpack(content)
    assert tfstruct.unpack(content, trust=True).predict(np.ones((1, 2)), verbose=0).tolist() == [[3, 3]]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda folder: tfstruct.pack(3), ModelError, "Expected a keras.Model"),
        (lambda folder: tfstruct.pack(folder / "model.keras"), ModelError, "Load a Keras model first"),
        (lambda folder: tfstruct.pack(folder / "none.tflite"), ModelError, "No such file"),
        (lambda folder: tfstruct.pack(b"nonsense bytes"), ConversionError, "Expected a .tflite file"),
        (lambda folder: tfstruct.pack(keras.Sequential()), ModelError, "has no weights yet"),
        (lambda folder: tfstruct.unpack(folder / "none.tfpack"), ModelError, "No such file"),
        (lambda folder: tfstruct.unpack(3), ModelError, "Expected a Packed"),
    ],
)
def test_wrong_sources(make, error, message, tmp_path):
    with pytest.raises(error, match=message):
        make(tmp_path)


def test_converted_model_by_its_report(int8, digits_model):
    class Report:
        model = "digits"

    assert tfstruct.pack(TFLiteModel(int8, Report, {}, int8, [])).report.model == "digits"
