"""Backbones of KerasHub, small and with random weights: opened, equal, pruned as masked. Skipped where it is absent.

`pip install --no-deps keras-hub regex tokenizers` is enough for it. With TFSTRUCT_RESULTS=tools/results the table of
`pytest -m slow tests/graph/test_keras_hub.py` is kept there.
"""

import os
import pathlib
import sys

import custom_layers
import keras
import numpy as np
import pytest
from oracle import assert_equal, assert_pruned_equals_masked, masked_outputs
from sweeps import sweep

from tfstruct import profile, surgery
from tfstruct.convert.runtime import Runtime
from tfstruct.convert.tflite import Converter
from tfstruct.errors import BudgetError, ConversionError
from tfstruct.graph import groups, trace
from tfstruct.graph.opening import open_model
from tfstruct.quantize import calibrate
from tfstruct.quantize.layer_sensitivity import sqnr
from tfstruct.surgery.pruning.plan import units_of

keras_hub = pytest.importorskip("keras_hub", reason="needs KerasHub (keras-hub)")
models = keras_hub.models

TEXT = {"vocabulary_size": 50, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 32}
LONG = {**TEXT, "max_sequence_length": 16}
GROUPED = {
    "vocabulary_size": 50, "num_layers": 2, "num_query_heads": 4, "num_key_value_heads": 2, "hidden_dim": 16,
    "intermediate_dim": 32,
}  # fmt: skip
VIT = {"image_shape": (16, 16, 3), "patch_size": (4, 4), "num_layers": 2, "num_heads": 2, "hidden_dim": 16}
CASES = {
    "Albert": {**LONG, "embedding_dim": 8},
    "Bart": LONG,
    "Bert": LONG,
    "Bloom": TEXT,
    "DebertaV3": {**LONG, "bucket_size": 8},
    "DeiT": {**VIT, "intermediate_dim": 32},
    "DenseNet": {"stackwise_num_repeats": [2, 2], "image_shape": (32, 32, 3), "growth_rate": 4},
    "DistilBert": LONG,
    "Electra": {**{k: v for k, v in LONG.items() if k != "vocabulary_size"}, "vocab_size": 50, "embedding_dim": 16},
    "FNet": {k: v for k, v in LONG.items() if k != "num_heads"},
    "Falcon": {**{k: v for k, v in TEXT.items() if k != "num_heads"}, "num_attention_heads": 2},
    "GPT2": LONG,
    "GPTNeoX": LONG,
    "Gemma": {**GROUPED, "head_dim": 8},
    "Llama": GROUPED,
    "MiT": {
        "layerwise_depths": [1, 1], "image_shape": (16, 16, 3), "hidden_dims": [8, 16], "num_layers": 2,
        "layerwise_num_heads": [1, 2], "layerwise_sr_ratios": [2, 1], "max_drop_path_rate": 0.1,
        "layerwise_patch_sizes": [3, 3], "layerwise_strides": [2, 2],
    },
    "Mistral": {**GROUPED, "sliding_window": 8},
    "OPT": LONG,
    "Phi3": GROUPED,
    "Qwen2": GROUPED,
    "Roberta": LONG,
    "SwinTransformer": {
        "image_shape": (32, 32, 3), "patch_size": 4, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2],
        "window_size": 4,
    },
    "T5": TEXT,
    "VGG": {"stackwise_num_repeats": [1, 1], "stackwise_num_filters": [8, 8], "image_shape": (16, 16, 3)},
    "ViT": {**VIT, "mlp_dim": 32},
    "Whisper": {**TEXT, "num_mels": 8, "max_encoder_sequence_length": 16, "max_decoder_sequence_length": 16},
    "Xception": {
        "stackwise_conv_filters": [[8, 8], [16, 16]], "stackwise_pooling": [True, False], "image_shape": (32, 32, 3),
    },
}  # fmt: skip
# They compute with TensorFlow's own functions inside.
CLOSED = {"DebertaV3": "self_attention_layer"}
PLAIN = {"DenseNet", "VGG", "Xception"}  # nothing in them is custom


def backbone(name: str) -> tuple[keras.Model, object]:
    """The model, and its inputs of a known length, which causal masks and Fourier transforms need."""
    keras.utils.set_random_seed(0)
    model = custom_layers.randomized(getattr(models, f"{name}Backbone")(**CASES[name]))
    return model, keras.tree.map_structure(
        lambda x: keras.KerasTensor([n if n or not i else 8 for i, n in enumerate(x.shape)], x.dtype, name=x.name),
        model.input,
    )


def drawn(model: keras.Model, count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [
        rng.integers(int("mask" in x.name), 2, (count, *x.shape[1:])).astype(x.dtype)
        if "int" in x.dtype or "bool" in x.dtype
        else rng.normal(size=(count, *x.shape[1:])).astype("float32")
        for x in model.inputs
    ]


@pytest.mark.parametrize("name", sweep(CASES, {"GPT2"}))
def test_opened(name):
    model, known = backbone(name)
    found = open_model(model, known)
    assert all(path.endswith(CLOSED.get(name, "-")) for path in found.closed)
    assert bool(found.opened) != (name in PLAIN)
    free = [sum(len(group.free) for group in groups(trace(m))) for m in (model, found.model)]
    assert free[1] > free[0] or name in PLAIN

    given = [keras.ops.convert_to_tensor(x) for x in drawn(found.model, 3)]
    inputs = keras.tree.pack_sequence_as(known, given)
    assert_pruned_equals_masked(found.model, inputs=inputs)


# More than two steps between twin and file.
APART = {"Albert": "the file reads past sums in front of layers that are called twice, in each call others"}
# What the converter has no operators for, by name.
FLOAT = {"FNet": "tf.FFT2D"}


@pytest.fixture(scope="module")
def table():
    """Rows of what was measured, printed at the end; kept in the folder that TFSTRUCT_RESULTS names, if any."""
    sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "tools"))
    from interleaved import Table

    title = "backbones of KerasHub, small, random weights"
    made = Table("keras_hub", title, {"keras_hub": keras_hub.__version__}, os.environ.get("TFSTRUCT_RESULTS"))
    yield made
    made.show()


def share(model: keras.Model) -> float:
    """Of all channels, those that can go."""
    found = groups(trace(model))
    return sum(len(group.free) for group in found) / max(1, sum(group.width for group in found))


def planned(opened: keras.Model, known, folder) -> dict:
    """To 60 % of the MACs, or as far as the outputs allow, or of the parameters where the work of an operation is not
    known: equal to the masked one, saved, loaded, trained a step."""
    cost = "macs"
    try:
        plan = surgery.plan_channels(opened, "macs=60%")
    except BudgetError as error:
        if "macs" in error.least:
            least = error.least["macs"] / profile(opened).macs
            plan = surgery.plan_channels(opened, {"macs": least + 0.3 * (1 - least)})
        else:
            cost = "params"
            plan = surgery.plan_channels(opened, "params=60%")
    graph, smaller = trace(opened), surgery.apply(opened, plan)
    inputs = keras.tree.pack_sequence_as(known, [keras.ops.convert_to_tensor(x) for x in drawn(opened, 3)])
    expected = [np.asarray(y) for y in masked_outputs(graph, units_of(graph, plan), inputs)]
    assert_equal(expected, arrays(smaller(inputs, training=False)))
    smaller.save(folder / "smaller.keras")
    loaded = keras.models.load_model(folder / "smaller.keras")
    assert_equal(expected, arrays(loaded(inputs, training=False)))
    before = [w.numpy() for w in loaded.trainable_variables]
    loaded.compile("adam", "mse")
    loaded.fit(inputs, keras.tree.map_structure(lambda y: np.ones(y.shape), loaded(inputs)), verbose=0)
    assert any(np.abs(a - w.numpy()).max() > 0 for a, w in zip(before, loaded.trainable_variables, strict=True))
    known = {"MACs": plan.before["macs"]} if cost == "macs" else {}
    return {**known, "share that stays": plan.after[cost] / plan.before[cost]}


def arrays(outputs) -> list[np.ndarray]:
    return [np.asarray(keras.ops.convert_to_numpy(y), np.float64) for y in keras.tree.flatten(outputs)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.xfail(reason=APART[name], strict=True)) if name in APART else name
        for name in CASES
    ],
)
def test_planned_and_int8(name, process, table, tmp_path):
    """Planned, saved, loaded, trained a step; the int8 file of the opened backbone against its twin, in dB and in steps
    of the output."""
    model, known = backbone(name)
    found = open_model(model, known)
    opened = found.model
    row = {"layers opened": len(found.opened), "can go, closed": share(model), "can go, opened": share(opened)}
    table.rows.pop(name, None)
    table.row(name, lambda: row)
    row |= planned(opened, known, tmp_path)
    x = {port.name: value for port, value in zip(opened.inputs, drawn(opened, 120), strict=True)}
    data = x if len(x) > 1 else next(iter(x.values()))
    twin = calibrate(opened, data)
    with Converter(twin, process=process) as converter:
        try:
            file = converter.convert("int8", calibration=data)
        except ConversionError as error:
            row["int8"] = f"no: {FLOAT[name]}"
            table.rows.pop(name)
            table.row(name, lambda: row)
            assert FLOAT[name] in str(error)
            return
    assert name not in FLOAT
    given = keras.tree.pack_sequence_as(known, [keras.ops.convert_to_tensor(value[:16]) for value in x.values()])
    plain, ours = (arrays(m(given)) for m in (opened, twin))
    theirs = keras.tree.flatten(file.predict({port: value[:16] for port, value in x.items()}))
    ports = Runtime(file.content).outputs
    of_file = [sqnr(a, b) for a, b in zip(plain, theirs, strict=True)]
    steps = [np.abs(a - b).max() / port.scale for a, b, port in zip(ours, theirs, ports, strict=True)]
    row |= {
        "file dB": min(of_file), "twin dB": min(map(sqnr, plain, ours)), "twin and file, steps": float(max(steps)),
        "not seen inside": len(twin.report.skipped),
    }  # fmt: skip
    table.rows.pop(name)
    table.row(name, lambda: row)
    assert all(sqnr(a, b) > own - 4 for a, b, own in zip(ours, theirs, of_file, strict=True))
    assert round(max(steps)) <= 2 or twin.report.skipped
