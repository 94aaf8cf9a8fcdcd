"""Recurrent layers in streaming int8 files: what they remember has 16 bits, and stays near the float model."""

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers, ops
from streaming.streamed_models import gru, recurrent, sequences, shaken

import tfstruct
from tfstruct.convert import Converter, StreamingFile, micro
from tfstruct.errors import RecipeError

STEPS = 2  # of the output's scale, over 200 frames
LINEAR = 3  # where the last layer has no softmax: its own 8 bits, in and out, are up to two


@pytest.fixture
def converted(process):
    """Makes a model streaming, and a file of it."""

    def convert(model, x, precision="int8", **fields):
        made = tfstruct.to_streaming(model)
        with Converter(made, process=process) as converter:
            return made, converter.convert(precision, calibration=x, measure_latency=False, **fields)

    return convert


def beyond(lite, wanted, x) -> float:
    """How far the file is at most from what is wanted, in steps of its output."""
    (out,) = lite.report.streaming.outputs
    scale = next(port.scale for port in lite.outputs if port.name == out.name)
    return float(np.abs(lite.predict(x) - wanted).max() / scale)


def steps(made, lite, x) -> float:
    """How far the file is at most from the model of whole sequences, in steps of its output."""
    return beyond(lite, made.run(x), x)


def types_of_states(made, lite) -> set[str]:
    """What the states are stored as, which is the same where they go in and where they come out."""
    inputs, outputs = ({port.name: port for port in side} for side in (lite.inputs, lite.outputs))
    pairs = [(inputs[state.input], outputs[state.output]) for state in made.plan.states]
    assert all((a.dtype, a.scale, a.zero_point) == (b.dtype, b.scale, b.zero_point) for a, b in pairs)
    return {before.dtype.name for before, _ in pairs}


def types_inside(lite, layer: str) -> set[str]:
    """What the operators of a layer make, where they do more than to change a type."""
    own = [op for op in lite.report.operators if any(path.split("/")[0] == layer for path in op.layers)]
    return {op.dtype for op in own if op.name != "QUANTIZE"}


def test_two_layers_stay_within_two_steps(converted):
    x = sequences(12, 200, 8)
    made, lite = converted(gru(sequences=True), x)
    assert steps(made, lite, x[:4]) <= STEPS
    assert types_of_states(made, lite) == {"int16"} and not lite.report.float_operators
    assert types_inside(lite, "first") == types_inside(lite, "second") == {"int16"}
    assert types_inside(lite, "classes") == {"int8"}
    # A change of type where frames come in and where the last layer reads them, none at the states.
    assert lite.report.operator_counts()["QUANTIZE"] == 2
    assert lite.report.state_bytes == 2 * (16 + 12)
    assert "first, second in int16x8, with states of 16 bits" in str(lite.report)
    np.testing.assert_array_equal(StreamingFile(lite.content).run(x[:2]), lite.predict(x[:2]))


def test_eight_bits_on_request(converted):
    x = sequences(8, 40, 8)
    made, lite = converted(gru(), x, layers={"*": "int8"})
    assert types_of_states(made, lite) == {"int8"} and types_inside(lite, "first") == {"int8"}
    assert "int16x8" not in str(lite.report)
    made, lite = converted(gru(), x, layers={"first": "int8"})
    assert types_inside(lite, "first") == {"int8"} and types_inside(lite, "second") == {"int16"}
    assert "second in int16x8" in str(lite.report) and "first in int16x8" not in str(lite.report)
    with pytest.raises(RecipeError, match="'third' matches no layer"):
        converted(gru(), x, layers={"third": "int8"})


def test_a_layer_in_float_has_its_state_in_float(converted):
    x = sequences(8, 40, 8)
    made, lite = converted(recurrent("GRU"), x, layers={"first": "float32"})
    types = {port.name: port.dtype.name for port in lite.inputs}
    assert types_of_states(made, lite) == {"float32", "int16"}
    assert types["first_state"] == "float32" and types["second_state"] == "int16"
    assert steps(made, lite, x) <= LINEAR


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "slow"), [("GRU", False), ("GRU", True), ("LSTM", False), ("LSTM", True), ("SimpleRNN", False)]
)
def test_kinds(converted, kind, slow):
    x, model = sequences(12, 200, 8), recurrent(kind, slow=slow)
    made, lite = converted(model, x)
    assert types_of_states(made, lite) == {"int16"}
    # The model with the weights that the file has: what rounds them is no matter of streams.
    exact = converted(model, x, "int16x8")[1].predict(x[:4])
    assert beyond(lite, exact, x[:4]) <= LINEAR
    if slow:
        assert beyond(converted(model, x, layers={"*": "int8"})[1], exact, x[:4]) > 2 * LINEAR


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "slow"), [("GRU", False), ("LSTM", False), ("LSTM", True)])
def test_the_file_of_the_whole_sequence_is_two_steps_away(converted, process, kind, slow):
    x, model = sequences(12, 200, 8), recurrent(kind, slow=slow)
    _, lite = converted(model, x)
    remembering = dict.fromkeys(["first", "second"], "int16x8")  # as the stream has it
    with Converter(model, process=process, timeout=600) as converter:
        whole = converter.convert(
            "int8", calibration=x, layers=remembering, input_shapes={"series": (200, 8)}, measure_latency=False
        )
    assert beyond(lite, whole.predict(x[:4]), x[:4]) <= STEPS


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_a_last_layer_of_16_bits_brings_two_steps_from_float(converted, kind):
    x = sequences(12, 200, 8)
    made, lite = converted(recurrent(kind), x, layers={"classes": "int16x8"})
    assert {port.dtype.name for port in lite.outputs if port.name == "classes"} == {"int8"}
    assert steps(made, lite, x[:4]) <= STEPS


class Least(layers.Layer):
    """A cell with an operator that one of the two quantizers knows, in 8 bits."""

    state_size = 4

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 4), name="kernel")

    def call(self, inputs, states):
        new = ops.minimum(ops.tanh(inputs @ self.kernel), 0.5 + 0.5 * states[0])
        return new, [new]


def test_a_cell_that_cannot_have_16_bits_has_8(converted):
    x = sequences(8, 40, 8)
    series = keras.Input((None, 8), name="series")
    cell = layers.RNN(Least(), return_sequences=True, name="own")(series)
    model = shaken(keras.Model(series, layers.Dense(3, name="out")(cell)))
    made, lite = converted(model, x)
    assert types_of_states(made, lite) == {"int8"} and not lite.report.float_operators
    assert "recurrent layers in int8, as 16 bits failed: The state 'own_state' goes in as" in str(lite.report)


class Leaky(layers.Layer):
    """A cell of one's own: a mean that leaks."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")
        self.leak = self.add_weight(shape=(self.units,), name="leak")

    def call(self, inputs, states):
        kept = ops.sigmoid(self.leak + 2)
        new = kept * states[0] + (1 - kept) * ops.tanh(inputs @ self.kernel)
        return new, [new]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["own cell", "stacked cells", "behind padding", "ConvLSTM", "nested", "two readers"])
def test_other_shapes(converted, kind):
    shape = (8, 4) if kind == "ConvLSTM" else (8,)
    x = series = keras.Input((None, *shape), name="series")
    if kind == "own cell":
        x = layers.RNN(Leaky(6), return_sequences=True, name="own")(x)
    elif kind == "stacked cells":
        x = layers.RNN([layers.LSTMCell(6), layers.GRUCell(5)], return_sequences=True, name="stack")(x)
    elif kind == "behind padding":
        x = layers.Conv1D(8, 3, padding="same", activation="relu", name="conv")(x)
        x = layers.GRU(10, return_sequences=True, name="gru")(x)
    elif kind == "ConvLSTM":
        x = layers.ConvLSTM1D(3, 3, padding="same", return_sequences=True, name="conv_lstm")(x)
    elif kind == "nested":
        inner = keras.Input((None, 8))
        inside = keras.Model(inner, layers.GRU(10, return_sequences=True, name="gru")(inner), name="inside")
        x = inside(x)
    else:
        y = layers.GRU(10, return_sequences=True, name="gru")(x)
        x = layers.Concatenate()([y, layers.Dense(4)(x), layers.Conv1D(6, 3, padding="causal", name="conv")(y)])
    data = sequences(12, 200, *shape)
    model = shaken(keras.Model(series, layers.Dense(3, name="out")(x)))
    made, lite = converted(model, data)
    assert "int16" in types_of_states(made, lite)
    assert not lite.report.float_operators
    assert beyond(lite, converted(model, data, "int16x8")[1].predict(data[:4]), data[:4]) <= LINEAR
    remembered = [state.input for state in made.plan.states if state.holds == "what the layer remembers"]
    assert {port.dtype.name for port in lite.inputs if port.name in remembered} == {"int16"}


def test_on_a_microcontroller(converted):
    if micro.version() is None:
        pytest.skip("tflite-micro is not installed")
    x = sequences(8, 40, 8)
    _, lite = converted(recurrent("LSTM"), x)
    rng = np.random.default_rng(0)
    given = {p.name: rng.integers(-100, 100, (3, *p.shape[1:])).astype(p.dtype) for p in lite.inputs}
    for port in lite.inputs:
        if port.dtype == np.int16:
            given[port.name] *= 200
    run = Interpreter(model_content=lite.content).get_signature_runner()
    found = [run(**{name: value[i : i + 1] for name, value in given.items()}) for i in range(3)]
    for name, value in micro.run(lite.content, given).outputs.items():
        # The kernels of the two runtimes round a product in other places; 10 of 65,536 steps.
        apart = np.abs(value.astype(int) - np.concatenate([one[name] for one in found]))
        assert apart.max() <= (1 if value.dtype == np.int8 else 10)
