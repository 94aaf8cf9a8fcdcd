"""C arrays, and the microcontroller runtime on this machine."""

import pathlib
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import zoo
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from tfstruct import Recipe, demo, legacy
from tfstruct.convert import Converter, cutout, flatbuffer, micro
from tfstruct.errors import ConversionError

needs_runtime = pytest.mark.skipif(micro.version() is None, reason="needs tflite-micro (tfstruct[micro])")


@pytest.fixture(scope="module")
def digits(digits_model, process):
    (x, _), _ = demo.digits()
    with Converter(digits_model, process=process) as converter:
        return converter.draft(Recipe(precision="int8", calibration=x))[0]


@pytest.fixture(scope="module")
def resnet8(shared, process):
    """The real network; ranges from random images, as only the arithmetic matters here."""
    model = legacy.load(shared / "models" / "resnet8_cifar10_jpeg.h5")
    x = np.random.default_rng(0).uniform(0, 255, (20, 32, 32, 3)).astype("float32")
    with Converter(model, process=process) as converter:
        return converter.draft(Recipe(precision="int8", calibration=x, check_range=False))[0]


def bytes_of(source: str) -> bytes:
    """What a C compiler would put into the array."""
    return bytes(int(byte, 16) for byte in re.findall(r"\b0x([0-9a-f]{2})\b", source))


def reference(content: bytes, x: np.ndarray) -> np.ndarray:
    """What TensorFlow Lite's reference kernels compute; XNNPACK's round differently now and then."""
    interpreter = Interpreter(model_content=content, experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    interpreter.allocate_tensors()
    place, result = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    out = []
    for one in x:
        interpreter.set_tensor(place, one[None])
        interpreter.invoke()
        out.append(interpreter.get_tensor(result)[0])
    return np.stack(out)


@needs_runtime
@pytest.mark.parametrize("name, low, high", [("digits", 3_000, 6_000), ("resnet8", 50_000, 60_000)])
@pytest.mark.sweep(1)
def test_written_c_array_runs_bit_equal_to_the_file(name, low, high, request, tmp_path, capsys):
    content = request.getfixturevalue(name)
    header, source = micro.write_c_array(content, tmp_path / f"{name}.tflite")
    embedded = bytes_of((tmp_path / f"{name}.cc").read_text())
    assert embedded == content
    shape = tuple(flatbuffer.read(content).subgraphs[0].tensors[0].shape[1:])
    x = np.random.default_rng(1).integers(-128, 128, (12, *shape)).astype(np.int8)
    done = micro.run(embedded, x)
    (stored,) = done.outputs.values()
    assert stored.dtype == np.int8
    # The same bytes, so the same result as the file, bit by bit.
    np.testing.assert_array_equal(stored, next(iter(micro.run(content, x).outputs.values())))
    # TensorFlow Lite's own kernels agree, but for a rounding in FULLY_CONNECTED: see the next test.
    off = np.abs(stored.astype(int) - reference(content, x))
    assert off.max() <= 1 and (off == 0).mean() >= 0.97
    assert low < done.arena_bytes < high and 0 < done.head_bytes < done.arena_bytes
    assert f"{name}_arena_bytes = {done.arena_bytes};" in (tmp_path / f"{name}.h").read_text()
    assert (header, source) == (str(tmp_path / f"{name}.h"), str(tmp_path / f"{name}.cc"))
    with capsys.disabled():
        print(f" [arena {done.arena_bytes:,} bytes]", end="")


@needs_runtime
@pytest.mark.parametrize("name", ["digits", "resnet8"])
def test_every_kernel_is_bit_equal_to_tensorflow_lite_but_one(name, request):
    """tflite-micro rounds about one value in a thousand of a FULLY_CONNECTED with weights by channel otherwise."""
    content = request.getfixturevalue(name)
    model, rng, seen = flatbuffer.read(content), np.random.default_rng(3), set()
    for op in flatbuffer.operators(content):
        alone = cutout.cut(model, op.subgraph, op.index)
        shapes = [tuple(port.shape[1:]) for port in micro.Runtime(alone).inputs]
        if op.name in seen or len(shapes) != 1:
            continue
        seen.add(op.name)
        x = rng.integers(-128, 128, (20, *shapes[0])).astype(np.int8)
        (stored,) = micro.run(alone, x).outputs.values()
        off = np.abs(stored.astype(int) - reference(alone, x))
        assert off.max() <= (1 if op.name == "FULLY_CONNECTED" else 0), op
    assert {"CONV_2D", "FULLY_CONNECTED", "SOFTMAX"} <= seen


@needs_runtime
def test_the_arena_figure_is_enough_and_not_too_much(digits):
    x = np.zeros((1, 8, 8, 1), np.float32)
    need = micro.arena_bytes(digits)
    micro.run(digits, x, arena=need)
    with pytest.raises(ConversionError, match="Failed to allocate"):
        micro.run(digits, x, arena=need - 64)


@needs_runtime
def test_real_numbers_are_quantized_at_the_border(digits):
    (x, _), _ = demo.digits()
    port = micro.Runtime(digits).inputs[0]
    real = micro.run(digits, x[:5]).outputs["classes"]
    np.testing.assert_array_equal(real, micro.run(digits, port.encode(x[:5])).outputs["classes"])


@needs_runtime
def test_several_inputs_and_outputs(process):
    model = zoo.build("several")
    x = zoo.sample_inputs(model, 6)
    with Converter(model, process=process) as converter:
        content = converter.draft(Recipe())[0]
    done = micro.run(content, x)
    want = model.predict(x, verbose=0)
    assert set(done.outputs) == {"kind", "size"}
    for name, value in done.outputs.items():
        np.testing.assert_allclose(value, want[name], atol=1e-5)


@needs_runtime
def test_what_the_runtime_lacks_is_said(process):
    inputs = keras.Input((6,), name="x")
    model = keras.Model(inputs, keras.layers.Dense(4, activation="gelu", name="odd")(inputs))
    with Converter(model, process=process) as converter:
        content = converter.draft(
            Recipe(precision="int8", calibration=np.random.default_rng(0).normal(size=(9, 6)), check_range=False)
        )[0]
        loose = converter.draft(Recipe(batch_size=None))[0]
    answers = dict(zip([op.name for op in flatbuffer.operators(content)], micro.probe(content), strict=True))
    assert answers == {"FULLY_CONNECTED": None, "GELU": "the runtime has no operator GELU"}
    with pytest.raises(ConversionError, match="the runtime has no operator GELU"):
        micro.arena_bytes(content)
    with pytest.raises(ConversionError, match="needs fixed shapes"):
        micro.run(loose, np.zeros((1, 6), "float32"))


@needs_runtime
def test_the_table_of_operators_is_that_of_the_runtime(process):
    """Every operator that the tests' models have: the table and the runtime agree."""
    seen = {}
    for name in ("residual", "attention", "embedding", "grouped", "transposed", "several"):
        model = zoo.build(name)
        x = zoo.sample_inputs(model, 4)
        with Converter(model, process=process) as converter:
            content = converter.draft(
                Recipe(
                    precision="int8",
                    calibration=x,
                    check_range=False,
                    allow_float=True,
                    rounding="nearest",
                    rewrite=False,
                )
            )[0]
        seen |= dict(zip([op.name for op in flatbuffer.operators(content)], micro.probe(content), strict=True))
    assert len(seen) > 20
    assert {n for n, said in seen.items() if said is None} == {n for n in seen if n in micro.OPERATORS}


@needs_runtime
def test_a_crash_is_one_answer_and_the_rest_goes_on(digits, monkeypatch):
    real, calls = micro._start, []

    def start(arguments, timeout=600.0):
        calls.append(arguments)
        if len(calls) == 1:  # the process dies on the third operator
            return subprocess.CompletedProcess([], -11, '{"number": 0, "error": ""}\n{"number": 1, "error": ""}\n', "")
        return real(arguments, timeout)

    monkeypatch.setattr(micro, "_start", start)
    answers = micro.probe(digits)
    assert answers == (None, None, "the runtime crashed on it (exit status -11)", None, None, None)
    assert calls[1][-1] == "3"


def test_without_the_runtime_the_extra_is_named(digits, monkeypatch):
    monkeypatch.setattr(micro, "version", lambda: None)
    for ask in (micro.probe, micro.arena_bytes):
        with pytest.raises(ConversionError, match=r"pip install 'tfstruct\[micro\]'"):
            ask(digits)


@pytest.mark.parametrize(
    "operator, method",
    [
        ("CONV_2D", "AddConv2D"),
        ("DEPTHWISE_CONV_2D", "AddDepthwiseConv2D"),
        ("AVERAGE_POOL_2D", "AddAveragePool2D"),
        ("RELU6", "AddRelu6"),
        ("PADV2", "AddPadV2"),
        ("BATCH_MATMUL", "AddBatchMatMul"),
        ("SPACE_TO_BATCH_ND", "AddSpaceToBatchNd"),
        ("UNIDIRECTIONAL_SEQUENCE_LSTM", "AddUnidirectionalSequenceLSTM"),
        ("ethos-u", "AddEthosU"),
    ],
)
def test_resolver_methods_are_spelled_as_in_tflite_micro(operator, method):
    assert micro.resolver_method(operator) == method


@pytest.mark.parametrize(
    "name, clean",
    [
        ("digits", "digits"),
        ("my-model v1.2", "my_model_v1_2"),
        ("2nd", "model_2nd"),
        ("__x__", "x"),
        ("int", "model_int"),
        ("", "model"),
        ("模型", "model"),
    ],
)
def test_identifiers(name, clean):
    assert micro.identifier(name) == clean


def test_header_and_source(digits):
    header, source = micro.c_array(digits, "tiny net", arena_bytes=4352)
    assert "#ifndef TINY_NET_H_" in header and header.rstrip().endswith("#endif  // TINY_NET_H_")
    assert "tiny_net_operator_count = 4;" in header and "tiny_net_arena_bytes = 4352;" in header
    assert re.findall(r"resolver\.(\w+)\(\);", header) == ["AddConv2D", "AddMean", "AddFullyConnected", "AddSoftmax"]
    assert '#include "tiny_net.h"' in source and "alignas(16) const unsigned char tiny_net[]" in source
    assert f"tiny_net_len = {len(digits)};" in source and bytes_of(source) == digits


def test_the_header_says_why_it_has_no_arena(digits, tmp_path, monkeypatch):
    def fails(content):
        raise ConversionError("no space left\n#error \\")

    monkeypatch.setattr(micro, "arena_bytes", fails)
    header, _ = micro.write_c_array(digits, tmp_path / "net.cc")
    (line,) = [one for one in pathlib.Path(header).read_text().splitlines() if "arena" in one]
    assert line.startswith("// The arena was not measured: ") and "no space left" in line and not line.endswith("\\")


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_it_compiles_and_links(digits, tmp_path):
    micro.write_c_array(digits, tmp_path / "my-net.tflite")
    (tmp_path / "main.cc").write_text(
        '#include "my-net.h"\n#include <cstdint>\n'
        "struct Count { int n = 0; void AddConv2D() { ++n; } void AddMean() { ++n; } void AddFullyConnected() { ++n; } "
        "void AddSoftmax() { ++n; } };\n"
        "int main() { Count c; my_net_add_operators(c); unsigned sum = 0; "
        "for (unsigned i = 0; i < my_net_len; ++i) sum += my_net[i]; "
        "bool fine = c.n == my_net_operator_count && reinterpret_cast<std::uintptr_t>(my_net) % 16 == 0; "
        f"return fine && sum == {sum(digits)}u ? 0 : 1; }}\n"
    )
    command = ["g++", "-std=c++17", "-Wall", "-Werror", "-Wno-sign-compare", "main.cc", "my-net.cc", "-o", "net"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert subprocess.run([tmp_path / "net"]).returncode == 0


def test_a_cut_out_operator_computes_what_it_computed_in_the_file(digits):
    """The chain of cut-out operators, each fed by the one before, ends where the file ends."""
    model = flatbuffer.read(digits)
    x = np.random.default_rng(2).integers(-128, 128, (1, 8, 8, 1)).astype(np.int8)
    value = x
    for op in flatbuffer.operators(digits):
        interpreter = Interpreter(
            model_content=cutout.cut(model, op.subgraph, op.index),
            experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
        )
        interpreter.allocate_tensors()
        (given,) = interpreter.get_input_details()
        interpreter.set_tensor(given["index"], value)
        interpreter.invoke()
        value = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_array_equal(value, reference(digits, x))


def test_nothing_of_the_runtime_loads_with_the_library():
    heavy = ("tflite_micro", "ethosu", "tensorflow", "keras")
    code = f"import sys, tfstruct.convert.targets; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_custom_operator_has_no_resolver_method(digits):
    model = flatbuffer.read(digits)
    code = model.operatorCodes[model.subgraphs[0].operators[0].opcodeIndex]
    code.builtinCode = code.deprecatedBuiltinCode = flatbuffer.schema.BuiltinOperator.CUSTOM
    code.customCode = b"MyOwn"
    for op in model.subgraphs[0].operators[:3]:
        op.builtinOptions, op.builtinOptionsType = None, 0
    with pytest.raises(ConversionError, match=r"MyOwn .*is a custom operator.*AddCustom"):
        micro.c_array(flatbuffer.write(model), "digits")
