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
from keras_hub_cases import CASES
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
APART = {
    "Albert": "the file reads past sums in front of layers that are called twice, in each call others",
    **dict.fromkeys(("GptOss", "Mixtral", "QwenMoe"), "a step of a router's scores picks another expert"),
    **dict.fromkeys(("DINOV3", "EdRec"), "not found yet"),
}
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
