"""What a file takes and gives, in words, figures and C++; the model card of a conversion."""

import json
import re
import shutil
import subprocess

import keras
import numpy as np
import pytest
from keras import layers

from tfstruct.convert import Converter, c_ports, micro, ports
from tfstruct.convert.ports import Port, ports_of
from tfstruct.convert.runtime import Runtime

X = np.random.default_rng(0).integers(0, 256, (40, 6)).astype("float32")


@pytest.fixture(scope="module")
def file(process):
    keras.utils.set_random_seed(0)
    x = keras.Input((6,), name="pixels")
    h = layers.ReLU()(layers.Rescaling(1 / 255, name="norm")(x))
    outputs = {
        "scores": layers.Dense(3, activation="softmax", name="scores")(h),
        "size": layers.Dense(1, name="size")(h),
    }
    with Converter(keras.Model(x, outputs), process=process) as converter:
        return converter.convert("int8", calibration=X, input_type="uint8", output_type={"size": "float32"})


def test_the_formulas_by_hand():
    plain = Port("x", 0, (1, 2), np.dtype("int8"), 0.5, -3)
    assert plain.to_stored == "stored = round(real / 0.5) - 3, clipped to -128..127"
    assert plain.to_real == "real = 0.5 * (stored + 3)"
    assert plain.limits == (0.5 * (-128 + 3), 0.5 * (127 + 3))
    pixels = Port("x", 0, (1, 2), np.dtype("uint8"), 1.0, 0)
    assert pixels.to_stored == "stored = round(real), clipped to 0..255"
    assert pixels.to_real == "real = 1 * stored"
    floats = Port("x", 0, (None, 2), np.dtype("float32"), 0.0, 0)
    assert (floats.to_stored, floats.to_real) == ("stored = real, as float32", "real = stored")
    assert floats.limits is None


def test_the_file_alone_says_what_the_interpreter_says(file):
    runtime = Runtime(file.content)
    assert ports_of(file.content) == (runtime.inputs, runtime.outputs) == (file.inputs, file.outputs)
    assert {port.name: port.dtype.name for port in (*file.inputs, *file.outputs)} == {
        "pixels": "uint8", "scores": "int8", "size": "float32",
    }  # fmt: skip
    assert (file.inputs[0].scale, file.inputs[0].zero_point) == (1.0, 0)


def test_reports_say_it(file):
    text, data = str(file.report), json.loads(file.report.to_json())
    assert "stored = round(real), clipped to 0..255" in text
    assert "real = 0.00390625 * (stored + 128)" in text
    assert "pixels: 1x6 uint8, stored = round(real)" in file.report.to_html().replace(" x ", "x")
    assert [Port.from_dict(one) for one in data["inputs"]] == list(file.inputs)


def test_the_card_has_code_that_runs_the_file(file, tmp_path, monkeypatch):
    file.save(tmp_path / "model.tflite")
    file.report.save(tmp_path / "README.md")
    card = (tmp_path / "README.md").read_text()
    assert card == file.report.model_card()
    assert "Values of `pixels` outside 0 to 255 are clipped." in card
    assert "tensorflow" in card.split("## Made with")[1]
    monkeypatch.chdir(tmp_path)
    known = {"x": X[:1]}
    exec(card.split("```python\n")[1].split("```")[0], known)
    ours = file.predict(X[:1])
    for number, port in enumerate(file.outputs):
        np.testing.assert_allclose(known[f"output_{number}"], ours[port.name], rtol=1e-6)


def test_the_header_has_the_constants(file, tmp_path):
    header, _ = micro.c_array(file.content, "net")
    found = dict(re.findall(r"constexpr \S+ (?:int )?(net_\w+) = ([^;]+);", header))
    figures = {k: float(v.rstrip("f")) for k, v in found.items() if "count" not in k}
    assert figures == pytest.approx(
        {
            "net_input_elements": 6, "net_input_scale": 1.0, "net_input_zero_point": 0, "net_output0_elements": 3,
            "net_output0_scale": 1 / 256, "net_output0_zero_point": -128, "net_output1_elements": 1,
        }
    )  # fmt: skip
    assert '// input "pixels"' in header
    if shutil.which("g++"):
        (tmp_path / "net.h").write_text(header)
        subprocess.run(
            ["g++", "-std=c++17", "-Wall", "-Werror", "-fsyntax-only", "-xc++", tmp_path / "net.h"], check=True
        )


def test_a_name_cannot_leave_its_comment(file, monkeypatch):
    bad = Port('x";\n#include <evil>\\', 0, (1, 2), np.dtype("int8"), 0.5, -3)
    monkeypatch.setattr(c_ports, "ports_of", lambda content: ((bad,), ()))
    lines = c_ports.port_lines(file.content, "net").splitlines()
    assert all(line.startswith(("// ", "constexpr ")) for line in lines)
    assert not any(line.endswith("\\") for line in lines)
    assert ports.ports_of is not c_ports.ports_of
