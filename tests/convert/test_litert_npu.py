"""NPUs through LiteRT: the vendor's compiler as the judge, where it is installed; its documentation elsewhere."""

import dataclasses
import sys

import pytest
from ai_edge_litert import schema_py_generated as schema

from tfstruct import Recipe, check_target, demo
from tfstruct.convert import Converter, flatbuffer
from tfstruct.convert.devices import intel_npu, litert_npu, qualcomm
from tfstruct.errors import ConversionError


@pytest.fixture(scope="module")
def digits(digits_model, process):
    (x, _), _ = demo.digits()
    with Converter(digits_model, process=process) as converter:
        return converter.draft(Recipe(precision="int8", calibration=x))[0]


def _divided(content: bytes, stays: tuple[str, ...]) -> bytes:
    """What the tool writes: all but some operators are one that is dispatched to the NPU."""
    model = flatbuffer.read(content)
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = schema.BuiltinOperator.CUSTOM, 32, 1
    code.customCode = b"DISPATCH_OP"
    model.operatorCodes.append(code)
    for op in flatbuffer.operators(content):
        operator = model.subgraphs[op.subgraph].operators[op.index]
        if op.name not in stays:
            operator.opcodeIndex = len(model.operatorCodes) - 1
            operator.builtinOptions, operator.builtinOptionsType = None, 0
    return flatbuffer.write(model)


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """A vendor whose compiler is there, and LiteRT's tool as a script: (vendor, writes the script's body)."""
    script = tmp_path / "tool.py"
    monkeypatch.setattr(litert_npu, "_TOOL", str(script))
    vendor = dataclasses.replace(qualcomm.VENDOR, libraries=lambda: str(tmp_path))

    def tool(body: str):
        head = "import sys\nflags = dict(one.lstrip('-').split('=', 1) for one in sys.argv[1:])\n"
        script.write_text(head + body)

    return vendor, tool


def test_what_the_compiler_leaves_to_the_cpu(digits, compiler, tmp_path):
    vendor, tool = compiler
    (tmp_path / "made.tflite").write_bytes(_divided(digits, ("MEAN",)))
    tool(
        f"open(flags['o'], 'wb').write(open({str(tmp_path / 'made.tflite')!r}, 'rb').read())\n"
        "assert flags['soc_manufacturer'] == 'Qualcomm' and flags['cmd'] == 'partition'\n"
        f"import os; assert os.environ['LD_LIBRARY_PATH'].startswith({str(tmp_path)!r})\n"
    )
    found = flatbuffer.operators(digits)
    verdict = litert_npu.judge(digits, found, vendor, qualcomm.table)
    assert [op.name for op, (fits, _) in zip(found, verdict.answers, strict=True) if not fits] == ["MEAN"]
    assert dict(verdict.facts)["on the NPU"] == "5 of 6 operators, in 5 parts"
    assert "Qualcomm's plugin" in verdict.judge and "SM8750" in verdict.judge and verdict.notes == ()


@pytest.mark.parametrize(
    "body, says",
    [
        ("print('ERROR: libQnnHtp.so: cannot open shared object file', file=sys.stderr)\nopen(flags['o'], 'wb')\n",
         "cannot open shared object"),
        ("sys.exit('no such chip')\n", "no such chip"),
    ],
)  # fmt: skip
def test_a_compiler_that_fails_is_said_and_the_documentation_judges(body, says, digits, compiler):
    vendor, tool = compiler
    tool(body)
    with pytest.raises(ConversionError, match=f"The compiler of Qualcomm failed: .*{says}"):
        litert_npu.divided(digits, vendor)
    verdict = litert_npu.judge(digits, flatbuffer.operators(digits), vendor, qualcomm.table)
    assert "documentation" in verdict.judge and says in verdict.notes[0]


def test_a_compiler_that_hangs_is_stopped(digits, compiler):
    vendor, tool = compiler
    tool("import time; time.sleep(60)\n")
    with pytest.raises(ConversionError, match=r"did not finish within 0\.5 s"):
        litert_npu.divided(digits, vendor, timeout=0.5)


def test_what_is_not_installed_is_named(digits):
    nothing = dataclasses.replace(qualcomm.VENDOR, libraries=lambda: None)
    with pytest.raises(ConversionError, match="pip install ai-edge-litert-sdk-qualcomm"):
        litert_npu.divided(digits, nothing)
    verdict = litert_npu.judge(digits, flatbuffer.operators(digits), nothing, intel_npu.table)
    assert verdict.judge == "nobody" and {fits for fits, _ in verdict.answers} == {None}


def test_an_sdk_that_was_not_downloaded_is_none(tmp_path, monkeypatch, capsys):
    (tmp_path / "fake_sdk.py").write_text("def path_to_sdk_libs():\n    raise AssertionError\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert litert_npu.sdk("fake_sdk") is None and litert_npu.sdk("no_such_sdk") is None
    package = tmp_path / "whole_sdk"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("def path_to_sdk_libs():\n    return __path__[0] + '/data'\n")
    assert litert_npu.sdk("whole_sdk") == str(package / "data")
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_intels_compiler_judges_on_this_processor(digits):
    pytest.importorskip("openvino", reason="needs openvino==2026.3.1")
    if sys.platform != "linux":
        pytest.skip("LiteRT's tool is for Linux")
    report = check_target(digits, "intel-npu")
    if "failed" in "".join(report.notes):
        pytest.skip(f"another version of openvino: {report.notes[0]}")
    assert report.fits and report.judge.startswith("IntelOpenVINO's plugin")
    assert dict(report.facts)["on the NPU"] == "6 of 6 operators, in 1 part"
