"""The tables of what operations and operators do, held against the files that are written: every row alone in int8."""

import dataclasses

import keras
import pytest
from keras import layers
from operation_examples import SHAPES, examples, samples, with_any_weights

from tfstruct.convert import Converter, Recipe, flatbuffer
from tfstruct.graph import trace
from tfstruct.graph.operation_traits import _ROWS, traits_of
from tfstruct.graph.traits import Traits
from tfstruct.tflite_operators import traits_of as operator_traits

BORDER = ("QUANTIZE", "DEQUANTIZE")
# Not in an int8 file, by either engine, or only in several operators.
ELSEWHERE = {
    "Conv3DTranspose", "MaxPooling3D", "AveragePooling3D",  # no integer operator
    # What they read is no float.
    "Embedding", "ReversibleEmbedding", "Discretization", "CategoryEncoding", "Hashing", "IntegerLookup",
    "StringLookup", "TextVectorization",
    "LSTM", "GRU", "SimpleRNN", "Bidirectional", "SimpleRNNCell", "LSTMCell", "GRUCell", "MultiHeadAttention",
    "Dot", "Matmul", "Einsum", "Tensordot", "Normalize",  # no scale to hold them to
    "FullLike", "OnesLike", "ZerosLike",  # constants
    "Shuffle",  # of the graph
}  # fmt: skip
# The same operators as one that is there.
ALIKE = {
    "Abs", "Sqrt", "Flipud", "Slice", "Vsplit", "Dsplit", "Vstack", "Ravel", "BroadcastTo", "Sparsemax", "Threshold",
    "HardShrink", "SoftShrink", "Celu", "Squareplus", "SparsePlus", "SparseSigmoid", "TanhShrink", "HardTanh",
    "Softsign", "Mish", "ReLU", "Divide",
}  # fmt: skip


@dataclasses.dataclass
class Found:
    """An example in a file.

    Attributes:
        operators: those of its last operation, without borders; whether one of them is in float.
        same: whether all that each of them reads and makes has one scale.
        made: (scale, zero point) of what the last makes.
    """

    traits: Traits
    operators: list[str]
    is_float: bool
    same: bool
    made: list


def _file(model, process, engine):
    """The file parsed, and its operators."""
    # None that anything would have by itself: what makes values of its own takes it, what only moves them does not.
    ranges = {x.name: (-2.0 - i / 100, 2.0) for i, x in enumerate(model.inputs)}
    for i, call in enumerate(trace(model).calls):
        ranges[call.path] = (-3.0 - i / 100, 5.0 + i / 100)
    recipe = Recipe(
        precision="int8", calibration=samples(model), ranges=ranges, engine=engine, allow_float=True, check_range=False
    )
    with Converter(model, process=process) as converter:
        made = converter.convert(recipe)
    return flatbuffer.read(made.content), flatbuffer.operators(made.content, made.layers)


def _scales(parsed, indices) -> list:
    graph = parsed.subgraphs[0]
    live = [graph.tensors[i] for i in indices if i >= 0 and not flatbuffer.is_constant(parsed, graph.tensors[i])]
    return [
        (float(t.quantization.scale[0]), int(t.quantization.zeroPoint[0]))
        for t in live
        if flatbuffer.dtype_name(t) == "int8"
    ]


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    given, made = examples()
    whole = with_any_weights(keras.Model(given, [x for outputs in made.values() for x in outputs]))
    return whole, {name: outputs[0]._keras_history.operation for name, outputs in made.items()}


@pytest.fixture(scope="module")
def files(model, process):
    return {engine: _file(model[0], process, engine) for engine in ("litert", "tensorflow")}


@pytest.fixture(scope="module")
def found(model, files):
    """engine -> example -> what became of it."""
    paths = {id(call.op): call.path for call in trace(model[0]).calls}
    result = {}
    for engine, (parsed, operators) in files.items():
        raw = parsed.subgraphs[0].operators
        result[engine] = {}
        for name, op in model[1].items():
            own = [one for one in operators if one.layers[-1:] == (paths[id(op)],)]
            kept = [one for one in own if one.name not in BORDER]
            scales = [_scales(parsed, [*raw[one.index].inputs, *raw[one.index].outputs]) for one in kept]
            result[engine][name] = Found(
                traits_of(op), [one.name for one in kept], any(one.is_float for one in own),
                all(len(set(some)) == 1 for some in scales), scales[-1][-1:] if scales else [],
            )  # fmt: skip
    return result


def test_every_row_is_an_example_or_has_a_reason(model):
    there = {type(op).__name__ for op in model[1].values()} | ELSEWHERE | ALIKE
    own = {kind.__name__ for kind in _ROWS if kind.__module__.startswith("tfstruct.layers")}
    assert {kind.__name__ for kind in _ROWS if kind.__module__.startswith("keras.")} <= there | own


def test_all_examples_are_integers_in_one_of_the_files(found):
    left = {name for name, one in found["litert"].items() if one.is_float and found["tensorflow"][name].is_float}
    assert left == {"ops.elu"}  # which no layer rewrites


@pytest.mark.parametrize("engine", ["litert", "tensorflow"])
def test_scales_are_as_the_table_says(found, engine):
    wrong = {}
    for name, one in found[engine].items():
        traits = one.traits
        if not one.operators:
            if traits.moves != "identity":
                wrong[name] = "no operator"
        elif one.is_float:
            continue
        elif traits.same_scale != one.same:
            wrong[name] = f"one scale: {one.same} in {one.operators}"
        elif traits.in_file.output_range is not None:
            low, high = traits.in_file.output_range
            if one.made != [(pytest.approx((high - low) / 255), round(-128 - low * 255 / (high - low)))]:
                wrong[name] = f"range {low}, {high}: {one.made}"
    assert not wrong


def test_values_come_from_the_operator_of_the_table(found):
    wrong = {}
    for name, one in found["litert"].items():
        last = [kind for kind in one.operators if kind != "RESHAPE"]
        expected = one.traits.operator
        # TensorFlow Lite leaves out what does nothing, and Keras's own Conv3D is computed by CONV_2D.
        if expected and last and last[-1] != {"CONV_3D": "CONV_2D", "SELECT_V2": "SELECT"}.get(expected, expected):
            wrong[name] = (expected, one.operators)
    assert not wrong


@pytest.mark.parametrize("engine", ["litert", "tensorflow"])
def test_operators_have_the_scales_that_their_table_says(files, engine):
    parsed, operators = files[engine]
    own: dict[str, list[bool]] = {}
    for op in operators:
        raw = parsed.subgraphs[0].operators[op.index]
        read, made = _scales(parsed, raw.inputs), _scales(parsed, raw.outputs)
        if op.is_float or op.name in BORDER or not read or not made:
            continue
        own.setdefault(op.name, []).append(len({*read, *made}) == 1)
        fixed = operator_traits(op.name).output_range
        if fixed is not None:
            assert made[0][0] == pytest.approx((fixed[1] - fixed[0]) / 255)
    for name, same in own.items():
        assert all(same) if operator_traits(name).same_scale else not all(same), name
    assert len(own) > 30


# What may be followed by a ReLU or a batch norm.
BEFORE = {
    "dense": (layers.Dense(4), "vector"), "conv1d": (layers.Conv1D(4, 3), "series"), "conv2d": layers.Conv2D(4, 3),
    "conv3d": (layers.Conv3D(4, 2), "volume"), "depthwise1d": (layers.DepthwiseConv1D(3), "series"),
    "depthwise2d": layers.DepthwiseConv2D(3), "separable1d": (layers.SeparableConv1D(4, 3), "series"),
    "separable2d": layers.SeparableConv2D(4, 3), "transposed1d": (layers.Conv1DTranspose(4, 3, strides=2), "series"),
    "transposed2d": layers.Conv2DTranspose(4, 3, strides=2), "batch norm": layers.BatchNormalization(),
    "layer norm": layers.LayerNormalization(), "layer norm without beta": layers.LayerNormalization(center=False),
    "group norm": layers.GroupNormalization(2), "rms norm": layers.RMSNormalization(),
    "rescaling": layers.Rescaling(2.0, 1.0), "scaling": layers.Rescaling(3.0),
    "normalization": layers.Normalization(mean=0.1, variance=2.0), "max": layers.MaxPooling2D(2),
    "average": layers.AveragePooling2D(2), "global average": layers.GlobalAveragePooling2D(),
    "upsampling": layers.UpSampling2D(2), "bilinear": layers.UpSampling2D(2, interpolation="bilinear"),
    "padding": layers.ZeroPadding2D(1), "add": layers.Add(), "subtract": layers.Subtract(),
    "multiply": layers.Multiply(), "maximum": layers.Maximum(), "concatenate": layers.Concatenate(),
    "average of two": layers.Average(), "silu": layers.Activation("silu"),
}  # fmt: skip


@pytest.fixture(scope="module")
def tails(process):
    """tail -> example -> (traits of what is before, operators that are the tail's own)."""
    keras.utils.set_random_seed(0)
    given, made = [], []
    names: dict[str, dict] = {"relu": {}, "relu6": {}, "norm": {}}
    for tail, own in names.items():
        for i, (name, value) in enumerate(BEFORE.items()):
            layer, source = value if isinstance(value, tuple) else (value, "image")
            layer = type(layer).from_config({**layer.get_config(), "name": f"before_{tail}_{i}"})
            read = [keras.Input(SHAPES[source]) for _ in range(2 if traits_of(layer).joins else 1)]
            given += read
            end = {"relu": layers.ReLU(name=f"relu_{i}"), "relu6": layers.ReLU(6.0, name=f"relu6_{i}")}.get(tail)
            end = end or layers.BatchNormalization(name=f"norm_{i}")
            made.append(end(layer(read if len(read) > 1 else read[0])))
            own[name] = layer, end.name
    model = with_any_weights(keras.Model(given, made))
    with Converter(model, process=process) as converter:
        file = converter.convert(
            Recipe(precision="int8", calibration=samples(model), engine="litert", allow_float=True, check_range=False)
        )
    operators = flatbuffer.operators(file.content, file.layers)
    return {
        tail: {
            name: (traits_of(layer), [op.name for op in operators if op.layers == (end,) and op.name not in BORDER])
            for name, (layer, end) in own.items()
        }
        for tail, own in names.items()
    }


@pytest.mark.parametrize("tail", ["relu", "relu6"])
@pytest.mark.sweep(1)
def test_what_fuses_with_a_relu_is_what_the_table_says(tails, tail):
    wrong = {
        name: own
        for name, (traits, own) in tails[tail].items()
        if traits.in_file.fuses == any(kind.startswith("RELU") for kind in own)
    }
    assert not wrong


def test_what_a_batch_norm_becomes_part_of_is_what_the_table_says(tails):
    wrong = {
        name: own
        for name, (traits, own) in tails["norm"].items()
        if traits.folds_batch_norm == bool({"MUL", "ADD"} & set(own))
    }
    assert not wrong
