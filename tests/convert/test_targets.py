"""Which operators fit which device: of a Keras model before training, and of a file after."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import zoo
from ai_edge_litert import schema_py_generated as schema
from keras import layers

from tfstruct import Recipe, demo, legacy
from tfstruct.convert import TARGETS, Converter, check_target, flatbuffer, micro
from tfstruct.convert.devices import edgetpu, esp32, ethos_u, google_tensor, gpu, mediatek, qualcomm
from tfstruct.convert.replacements import REPLACEMENTS
from tfstruct.convert.report import render
from tfstruct.errors import ConversionError, RecipeError

needs_runtime = pytest.mark.skipif(micro.version() is None, reason="needs tflite-micro (tfstruct[micro])")
needs_vela = pytest.mark.skipif(ethos_u.version() is None, reason="needs ethos-u-vela (tfstruct[micro])")


def odd_model():
    """A model with an operator that microcontrollers lack (GELU), and one that stays in float (ELU)."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, padding="same", name="stem")(inputs)
    x = layers.ELU(name="odd_elu")(x)
    x = layers.Conv2D(4, 3, padding="same", name="mid")(x)
    x = layers.Activation("gelu", name="odd_gelu")(x)
    x = layers.GlobalAveragePooling2D(name="gap")(x)
    return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x), name="odd")


# ELU stays in float only where it is not rewritten.
PLAIN = Recipe(precision="int8", rewrite=False)


def draft(model, process, **changes):
    x = zoo.sample_inputs(model, 4)
    recipe = Recipe(precision="int8", calibration=x, check_range=False, allow_float=True, rewrite=False).replace(
        **changes
    )
    with Converter(model, process=process) as converter:
        return converter.draft(recipe)


@pytest.fixture(scope="module")
def odd(process):
    return draft(odd_model(), process)[0]


@pytest.fixture(scope="module")
def digits(digits_model, process):
    (x, _), _ = demo.digits()
    with Converter(digits_model, process=process) as converter:
        return converter.draft(Recipe(precision="int8", calibration=x))[0]


@pytest.fixture(scope="module")
def resnet8(shared, process):
    return draft(legacy.load(shared / "models" / "resnet8_cifar10_jpeg.h5"), process)[0]


CLOSED = ("google-tensor", "intel-npu")  # only their compilers know what they take


@pytest.mark.parametrize("name", [name for name in TARGETS if name not in CLOSED])
def test_the_digits_fit_every_target(digits, name):
    report = check_target(digits, name)
    assert report.fits and report.problem() == "" and report.outside == ()
    assert [row.operator for row in report.rows] == [*["CONV_2D"] * 3, "MEAN", "FULLY_CONNECTED", "SOFTMAX"]
    report.require()
    data = json.loads(json.dumps(report.to_dict()))
    assert data["fits"] and data["target"] == name and len(data["rows"]) == 6
    assert "fits" in str(report) and "CONV_2D" in render(report.table())


@needs_vela
@pytest.mark.parametrize("accelerator", ["ethos-u55-64", "ethos-u65-256", "ethos-u85-128"])
def test_resnet8_is_compiled_for_the_npu(resnet8, accelerator):
    report = check_target(resnet8, accelerator)
    facts = dict(report.facts)
    assert report.fits and facts["on the NPU"] == "100% of the operators (15 of 15)"
    assert 20_000 < int(facts["SRAM"].split()[0].replace(",", "")) < 200_000
    assert accelerator in facts["estimate"] and "not measured" in facts["estimate"]


@needs_vela
def test_vela_says_what_stays_on_the_cpu_and_why(odd):
    compiled = ethos_u.compile_file(odd)
    assert compiled.content[4:8] == b"TFL3" and compiled.operators == 9
    assert set(compiled.on_cpu) == {"stem_dequant", "odd_elu", "odd_elu_quantized"}
    assert "Float32" in compiled.on_cpu["odd_elu"]
    assert compiled.npu_share == pytest.approx(6 / 9) and compiled.cycles > 0 and compiled.milliseconds > 0
    report = check_target(odd, "ethos-u")
    (row,) = [r for r in report.rows if r.operator == "ELU"]
    assert (row.fits, row.layers, row.replacement) == (False, ("odd_elu",), "LeakyReLU")
    assert report.problem().startswith("3 of 9 operators do not fit ethos-u: ELU (layer odd_elu): on the CPU:")


@needs_runtime
def test_before_training_and_after_give_the_same_answer(odd, process):
    """The Keras model is converted for the check: no second set of rules."""
    before, after = check_target(odd_model(), "micro", recipe=PLAIN, process=process), check_target(odd, "micro")
    assert [(r.operator, r.dtype, r.fits) for r in before.rows] == [(r.operator, r.dtype, r.fits) for r in after.rows]
    for report in (before, after):
        (row,) = report.outside
        assert (row.operator, row.layers[-1], row.replacement) == ("GELU", "odd_gelu", "Activation('hard_swish')")
        assert "GELU (layer odd_gelu): the runtime has no operator GELU. Use Act" in report.problem()
        with pytest.raises(ConversionError, match="odd_gelu") as error:
            report.require()
        assert error.value.layers == ("odd_gelu",)
        assert "arena" not in dict(report.facts)


def test_a_path_a_model_and_bytes_are_taken(odd, tmp_path, process):
    (tmp_path / "odd.tflite").write_bytes(odd)
    want = [r.fits for r in check_target(odd, "edgetpu").rows]
    assert [r.fits for r in check_target(tmp_path / "odd.tflite", "edgetpu").rows] == want
    made = dataclasses.make_dataclass("Made", ["content", "layers"])(*draft(odd_model(), process))
    report = check_target(made, "edgetpu")
    assert [r.fits for r in report.rows] == want
    assert {row.layers for row in report.outside} == {("stem",), ("odd_elu",), ("odd_gelu",)}


def test_precision_is_that_of_the_file(process):
    model = zoo.build("conv_bn")
    report = check_target(model, "edgetpu", precision="float32", process=process)
    assert not report.fits and {r.why for r in report.rows} == {"works on float32, supported are 8-bit integers"}
    assert {r.replacement for r in report.rows} == {"precision int8 (--precision int8)"}
    assert check_target(model, "edgetpu", process=process).fits


@pytest.mark.parametrize("name", ["edgetpu", pytest.param("ethos-u", marks=needs_vela)])
def test_what_is_proposed_fits(name, process):
    """GELU and ELU replaced as proposed give a model that fits."""
    made = {"ReLU": layers.ReLU, "LeakyReLU": layers.LeakyReLU}
    report = check_target(odd_model(), name, recipe=PLAIN, process=process)
    proposed = {r.layers[-1]: r.replacement for r in report.outside if r.operator in ("GELU", "ELU")}
    assert "odd_elu" in proposed

    def replaced(layer):
        return made[proposed[layer.name]](name=f"new_{layer.name}") if layer.name in proposed else layer

    better = keras.models.clone_model(
        odd_model(), clone_function=lambda old: replaced(old.from_config(old.get_config()))
    )
    assert check_target(better, name, recipe=PLAIN, process=process).fits


@needs_runtime
def test_hard_swish_is_proposed_and_fits_micro(process):
    model = zoo.build("grouped")  # has one
    assert check_target(model, "micro", process=process).fits


def test_mobile_says_what_runs_outside_xnnpack(odd):
    report = check_target(odd, "mobile")
    assert report.fits
    outside = {row.operator for row in report.rows if row.why}
    assert outside <= {"GELU", "ELU", "SOFTMAX", "QUANTIZE", "DEQUANTIZE", "MEAN"} and "SOFTMAX" in outside
    assert dict(report.facts)["in XNNPACK"] == f"{sum(not r.why for r in report.rows)} of 9 operators"


def test_mobile_refuses_what_no_kernel_runs(digits):
    model = flatbuffer.read(digits)
    code = model.operatorCodes[model.subgraphs[0].operators[0].opcodeIndex]
    code.builtinCode, code.deprecatedBuiltinCode, code.customCode = schema.BuiltinOperator.CUSTOM, 32, b"MyOwn"
    for op in model.subgraphs[0].operators[:3]:
        op.builtinOptions, op.builtinOptionsType = None, 0
    report = check_target(flatbuffer.write(model), "mobile")
    assert [row.operator for row in report.outside] == ["MyOwn"] * 3


def test_absent_tools_are_said_and_tables_judge(odd, monkeypatch):
    monkeypatch.setattr(micro, "version", lambda: None)
    monkeypatch.setattr(ethos_u, "version", lambda: None)
    report = check_target(odd, "micro")
    assert [row.operator for row in report.outside] == ["GELU"]
    assert "tflite-micro is not installed" in report.notes[0] and "table" in report.judge
    report = check_target(odd, "ethos-u")
    assert {row.operator for row in report.outside} == {"ELU", "DEQUANTIZE", "QUANTIZE"}
    assert "ethos-u-vela is not installed" in report.notes[0] and report.facts == ()
    with pytest.raises(ConversionError, match=r"pip install 'tfstruct\[micro\]'"):
        ethos_u.compile_file(odd)


@needs_vela
def test_vela_that_fails_or_hangs_is_one_error(odd):
    with pytest.raises(ConversionError, match=r"did not finish within 0\.01 s"):
        ethos_u.compile_file(odd, timeout=0.01)
    with pytest.raises(ConversionError, match="`accelerator` must be one of ethos-u55-32"):
        ethos_u.compile_file(odd, "ethos-u99")


def test_unknown_targets_and_damaged_files():
    with pytest.raises(RecipeError, match=r"must be one of mobile, .*micro, .*edgetpu"):
        check_target(b"", "toaster")
    with pytest.raises(ConversionError, match=r"Expected a \.tflite file"):
        check_target(b"nothing", "micro")
    with pytest.raises(ConversionError, match="damaged"):
        check_target(b"\xff\x00\x00\x00TFL3" + b"\xff" * 20, "micro")


def test_a_layer_that_tensorflow_lite_lacks_is_named(process):
    inputs = keras.Input((4,), name="x")
    model = keras.Model(inputs, layers.Lambda(lambda t: keras.ops.erfinv(t), name="inverse")(inputs))
    with pytest.raises(ConversionError, match="inverse"):
        check_target(model, "micro", process=process)


def _edge(build, shape, process):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(shape, name="x")
    return check_target(keras.Model(inputs, build(inputs)), "edgetpu", process=process)


@pytest.mark.parametrize(
    "build, shape, operator",
    [
        (lambda x: layers.Dense(3, name="bad")(x), (5, 4), "FULLY_CONNECTED"),
        (lambda x: layers.Softmax(name="bad")(x), (5, 4), "SOFTMAX"),
        (lambda x: layers.Conv2D(2, 3, dilation_rate=(1, 2), name="bad")(x), (8, 8, 4), "CONV_2D"),
        (lambda x: keras.ops.mean(x, axis=-1), (4, 4, 3), "MEAN"),
        (lambda x: x[:, ::2], (8, 4), "STRIDED_SLICE"),
    ],
)  # fmt: skip
def test_limits_of_the_edge_tpu(build, shape, operator, process):
    report = _edge(build, shape, process)
    assert operator in [row.operator for row in report.outside], str(report)
    assert edgetpu.OPERATORS[operator] in next(r.why for r in report.outside if r.operator == operator)
    assert dict(report.facts)["before it"].endswith("before the first that does not fit")


def test_what_the_edge_tpu_takes(process):
    def body(x):
        x = layers.Conv2D(4, 3, dilation_rate=2, activation="relu")(layers.ZeroPadding2D(2)(x))
        x = layers.DepthwiseConv2D(3, dilation_rate=2, padding="same")(x)
        x = layers.MaxPooling2D()(layers.Concatenate()([x, layers.ReLU(6.0)(x)]))
        return layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(x))

    report = _edge(body, (12, 12, 4), process)
    assert report.fits, report.problem()
    batch = np.zeros((2, 4), "float32")
    inputs = keras.Input((4,), name="x")
    recipe = Recipe(precision="int8", calibration=batch, batch_size=2)
    model = keras.Model(inputs, layers.Dense(2)(inputs))
    assert not check_target(model, "edgetpu", recipe=recipe, process=process).fits


def test_every_operator_that_a_replacement_becomes_exists():
    names = {name for name in vars(schema.BuiltinOperator) if name.isupper()}
    for operator, proposals in REPLACEMENTS.items():
        assert operator in names
        assert {becomes for _, becomes in proposals} <= names
    tables = micro.OPERATORS, ethos_u.OPERATORS, edgetpu.OPERATORS, gpu.OPERATORS, qualcomm.OPERATORS
    for table in (*tables, mediatek.OPERATORS, google_tensor.REFUSED, esp32.OPTIMIZED):
        assert set(table) <= names and len(set(table)) == len(table)
