"""Test vectors: the bytes that go in and come out, the program that checks them, and what it says of a wrong one."""

import re
import shutil
import subprocess

import keras
import numpy as np
import pytest
from keras import layers

from tfstruct import cli
from tfstruct.convert import Converter, micro
from tfstruct.convert import test_vectors as vectors_of
from tfstruct.convert.runtime import Runtime
from tfstruct.errors import ConversionError, DataError

RNG = np.random.default_rng(0)
X = {
    "image": RNG.integers(0, 256, (30, 6, 6, 3)).astype("float32"),
    "weather": RNG.normal(size=(30, 4)).astype("float32"),
}


def _model():
    keras.utils.set_random_seed(0)
    x, weather = keras.Input((6, 6, 3), name="image"), keras.Input((4,), name="weather")
    y = layers.Flatten()(layers.Conv2D(4, 3, activation="relu")(layers.Rescaling(1 / 127.5, offset=-1)(x)))
    h = layers.Concatenate()([y, layers.Dense(4)(weather)])
    return keras.Model([x, weather], {"size": layers.Dense(2)(h), "scores": layers.Dense(3, activation="softmax")(h)})


@pytest.fixture(scope="module")
def file(process):
    types = {"input_type": {"image": "uint8"}, "output_type": {"size": "float32"}}
    with Converter(_model(), process=process) as converter:
        return converter.convert("int8", calibration=X, measure_latency=False, **types)


@pytest.fixture(scope="module")
def vectors(file):
    return vectors_of(file, {name: value[:4] for name, value in X.items()})


def test_pixels_go_in_and_both_runtimes_agree(file, vectors):
    np.testing.assert_array_equal(vectors.inputs["image"], X["image"][:4].astype("uint8"))
    assert {name: value.dtype.name for name, value in vectors.outputs.items()} == {"size": "float32", "scores": "int8"}
    assert vectors.runtime.startswith("tflite-micro" if micro.version() else "ai-edge-litert")
    if micro.version():
        ran = micro.run(file.content, dict(vectors.inputs)).outputs
        for name, value in ran.items():
            np.testing.assert_array_equal(value, vectors.outputs[name])
    ports = {port.name: port for port in Runtime(file.content).outputs}
    here = file.predict({name: value[:4] for name, value in X.items()})
    difference = ports["scores"].encode(here["scores"]).astype(int) - vectors.outputs["scores"]
    # A step for each operator, which the softmax widens.
    assert np.abs(difference).max() <= 3 and np.abs(difference).mean() < 1


def test_samples_of_the_conversion_or_random_ones(file):
    np.testing.assert_array_equal(vectors_of(file, count=3).inputs["image"], X["image"][:3].astype("uint8"))
    drawn = vectors_of(file.content, count=3)
    assert len(drawn.inputs["image"]) == 3 and len(np.unique(drawn.inputs["image"])) > 100


def test_a_wrong_byte_is_named(vectors):
    wrong = {name: value.copy() for name, value in vectors.outputs.items()}
    assert vectors.differences(wrong) == []
    wrong["scores"][2, 1] ^= 1
    (line,) = vectors.differences(wrong)
    value = vectors.outputs["scores"][2, 1]
    assert line == f"output 'scores', sample 2, element [1]: {value ^ 1}, expected {value}"
    wrong["size"] = wrong["size"] + np.float32(1)
    assert len(vectors.differences(wrong)) == 1 + 8
    assert "missing" in vectors.differences({"size": vectors.outputs["size"]})[0]
    assert "expected int8" in vectors.differences({**vectors.outputs, "scores": np.zeros((4, 3))})[0]


def test_the_arrays_are_the_bytes(vectors, tmp_path):
    files = vectors.save(tmp_path)
    names = {file.name for file in files}
    assert names >= {"model.h", "model.cc", "vectors.h", "vectors.cc", "main.cc", "input0_image.npy"}
    text = (tmp_path / "vectors.cc").read_text()
    arrays = dict(re.findall(r"const \w+ (model_\w+)_vectors\[\] = \{\n(.*?)\};", text, re.DOTALL))
    for side, given in (("input", vectors.inputs), ("output", vectors.outputs)):
        ports = getattr(Runtime(vectors.content), f"{side}s")
        for number, port in enumerate(ports):
            value = given[port.name]
            written = np.array([float(v.rstrip("f")) for v in arrays[f"model_{side}{number}"].split(",") if v.strip()])
            np.testing.assert_array_equal(written.astype(value.dtype), value.ravel())
            file = next(one for one in files if one.name.startswith(side) and one.name.endswith(f"_{port.name}.npy"))
            np.testing.assert_array_equal(np.load(file), value)


# TensorFlow Lite Micro by its interface alone: an interpreter that gives what the vectors expect, but for one element.
_STUBS = {
    "tensorflow/lite/micro/system_setup.h": "namespace tflite { inline void InitializeTarget() {} }",
    "tensorflow/lite/schema/schema_generated.h": """
        namespace tflite {
        struct Model {};
        inline const Model* GetModel(const void*) { static Model m; return &m; }
        }""",
    "tensorflow/lite/micro/micro_mutable_op_resolver.h": """
        namespace tflite { template <unsigned int N> struct MicroMutableOpResolver { METHODS }; }""",
    "tensorflow/lite/micro/micro_interpreter.h": """
        #pragma once
        #include <cstdint>
        #include <cstdlib>
        #include <cstring>
        #include "model.h"
        #include "vectors.h"
        enum TfLiteStatus { kTfLiteOk, kTfLiteError };
        struct TfLiteTensor { union { char* raw; } data; };
        namespace tflite {
        struct Model;
        struct MicroInterpreter {
          char in[2][4096], out[2][4096];
          TfLiteTensor tensors[4];
          unsigned int run = 0;
          template <typename R>
          MicroInterpreter(const Model*, R&, uint8_t*, unsigned long) {
            for (int i = 0; i < 2; ++i) { tensors[i].data.raw = in[i]; tensors[2 + i].data.raw = out[i]; }
          }
          TfLiteStatus AllocateTensors() { return kTfLiteOk; }
          TfLiteTensor* input(int i) { return &tensors[i]; }
          TfLiteTensor* output(int i) { return &tensors[2 + i]; }
          TfLiteStatus Invoke() {
            EXPECTED
            if (std::getenv("WRONG") && run == 2) out[SCORES][1] ^= 1;
            ++run;
            return kTfLiteOk;
          }
        };
        }""",
}


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_the_program_compiles_and_names_what_differs(vectors, tmp_path, monkeypatch):
    from tfstruct.convert import flatbuffer

    vectors.save(tmp_path)
    graph = flatbuffer.read(vectors.content).subgraphs[0]
    ports = Runtime(vectors.content).outputs
    place = {port.name: list(graph.outputs).index(port.index) for port in ports}
    expected = "".join(
        f"std::memcpy(out[{place[port.name]}], model_output{n}_vectors + run * model_output{n}_elements,"
        f" model_output{n}_elements * {port.dtype.itemsize});\n"
        for n, port in enumerate(ports)
    )
    methods = "".join(f"void {method}() {{}} " for method in micro.resolver_methods(vectors.content))
    for name, text in _STUBS.items():
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        text = text.replace("METHODS", methods).replace("EXPECTED", expected).replace("SCORES", str(place["scores"]))
        target.write_text("\n".join(line.strip() for line in text.strip().splitlines()))
    sources = [str(tmp_path / name) for name in ("main.cc", "model.cc", "vectors.cc")]
    program = str(tmp_path / "check")
    subprocess.run(
        ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-O0", f"-I{tmp_path}", *sources, "-o", program],
        check=True,
    )
    good = subprocess.run([program], capture_output=True, text=True)
    assert (good.returncode, good.stdout) == (0, "4 invocations, 0 elements differ\n")
    monkeypatch.setenv("WRONG", "1")
    bad = subprocess.run([program], capture_output=True, text=True)
    value = int(vectors.outputs["scores"][2, 1])
    assert bad.returncode == 1
    assert bad.stdout.splitlines()[0] == (f"invocation 2, output scores, element 1: {value ^ 1}, expected {value}")


def test_the_program_says_where_its_arena_is_from(vectors, tmp_path, monkeypatch):
    monkeypatch.setattr(micro, "version", lambda: None)
    vectors.save(tmp_path)
    assert (
        "// a guess, as tflite-micro, which would measure it, is not installed\nalignas(16)"
        in (tmp_path / "main.cc").read_text()
    )


def test_what_does_not_fit_is_refused(file, process):
    with pytest.raises(DataError, match="samples of shape"):
        vectors_of(file, {"image": X["image"][:, :5], "weather": X["weather"]})
    with pytest.raises(DataError, match="count"):
        vectors_of(file, count=0)
    model = keras.Sequential([keras.Input((4,), name="x"), layers.Dense(2)])
    with Converter(model, process=process) as converter:
        dynamic = converter.convert("float32", batch_size=None, measure_latency=False)
        floats = converter.convert("float32", batch_size=2, measure_latency=False)
    with pytest.raises(ConversionError, match="fixed sizes"):
        vectors_of(dynamic)
    found = vectors_of(floats, count=5)
    assert len(found.inputs["x"]) == 4 and found.check() == []  # two batches of two


def test_the_command(tmp_path, monkeypatch, capsys):
    keras.Sequential([keras.Input((6,), name="x"), layers.Dense(3, name="scores")]).save(tmp_path / "m.keras")
    monkeypatch.chdir(tmp_path)
    arguments = ["m.keras", "-o", "m.tflite", "--no-latency", "--quiet", "--test-vectors"]
    assert cli.main([*arguments, "3"]) == 0
    assert np.load(tmp_path / "m_vectors" / "input0_x.npy").shape == (3, 6)
    (tmp_path / "m.tflite").unlink()
    for given, what in [("3", "exists already"), ("0", "positive")]:
        assert cli.main([*arguments, given]) == 2
        error = capsys.readouterr().err
        assert what in error and error.count("\n") == 1
