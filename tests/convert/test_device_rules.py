"""The rules of devices that no runtime here judges, held against files of operators inside and outside of them."""

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from keras import layers, ops

from tfstruct import Recipe, check_target
from tfstruct.convert import Converter, flatbuffer, micro
from tfstruct.convert.devices import edgetpu, esp32, google_tensor, gpu, mediatek, qualcomm
from tfstruct.errors import ConversionError

FILES: dict = {}


def _file(name: str, model: keras.Model, precision: str, process) -> bytes:
    """The file of a model whose layers are named after what is expected of them."""
    if (name, precision) not in FILES:
        x = [np.random.default_rng(0).normal(size=(4, *one.shape[1:])).astype("float32") for one in model.inputs]
        recipe = Recipe(precision, calibration=x, check_range=False, allow_float=True, rewrite=False)
        with Converter(model, process=process) as converter:
            FILES[name, precision] = converter.draft(recipe)[0]
    return FILES[name, precision]


def _image_model() -> keras.Model:
    """What is done to an image, each in a layer of its own."""
    keras.utils.set_random_seed(0)
    image, flat = keras.Input((8, 8, 4), name="image"), keras.Input((8,), name="flat")

    def lay(name, function, *given):
        return layers.Lambda(function, name=name)(*given)

    # Two dilated convolutions of one tensor share what the converter makes of the dilation, which then stays.
    other = layers.Conv2D(4, 1, name="other")(image)
    outs = [
        layers.Conv2D(6, 3, dilation_rate=2, name="dilated_conv")(image),
        layers.Conv2D(8, 3, groups=2, name="grouped_conv")(image),
        layers.Conv2D(4, 1, activation="relu6", name="plain_conv")(image),
        layers.DepthwiseConv2D(3, name="plain_depthwise")(image),
        layers.DepthwiseConv2D(3, depth_multiplier=2, name="wide_depthwise")(image),
        layers.DepthwiseConv2D(3, dilation_rate=2, name="dilated_depthwise")(other),
        layers.AveragePooling2D(2, name="pool_of_4")(image),
        layers.MaxPooling2D(2, name="pool_of_6")(layers.Conv2D(6, 1, name="six")(image)),
        layers.UpSampling2D(interpolation="bilinear", name="resize")(image),
        layers.Dense(3, name="dense_4d")(image),
        layers.Dense(3, name="dense")(flat),
        layers.Softmax(name="softmax")(flat),
        layers.Add(name="same_add")([image, image]),
        lay("broadcast_add", lambda x: x[0] + ops.mean(x[0], axis=(1, 2), keepdims=True), [image]),
        lay("outer_product", lambda x: x[:, :, :1] * x[:, :1, :], image),
        lay("floor", ops.floor, image),
        lay("gelu", lambda x: ops.gelu(x, approximate=False), image),
        lay("top", lambda x: ops.top_k(x, 2)[0], flat),
        lay("five_dimensions", lambda x: ops.reshape(x, (-1, 2, 4, 8, 4)), image),
        lay("flat_slice", lambda x: x[:, ::2], flat),
        lay("image_slice", lambda x: x[:, ::2], image),
        lay("pad_channels", lambda x: ops.pad(x, ((0, 0), (0, 0), (0, 0), (0, 2))), image),
    ]
    return keras.Model([image, flat], outs)


def _answers(content: bytes, target: str) -> dict[str, list]:
    """Layer -> (operator, fits, why) of its operators."""
    found: dict[str, list] = {}
    for row in check_target(content, target).rows:
        for layer in row.layers:
            found.setdefault(layer.split("/")[0], []).append((row.operator, row.fits, row.why))
    return found


def _fits(content: bytes, target: str) -> dict[str, dict]:
    """Layer -> operator -> what is said of it."""
    return {layer: {operator: fits for operator, fits, _ in rows} for layer, rows in _answers(content, target).items()}


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_the_gpu_delegate_takes_shapes_and_operators_by_its_rules(precision, process):
    content = _file("image", _image_model(), precision, process)
    said = _fits(content, "gpu")
    for layer in ("dilated_conv", "plain_conv", "plain_depthwise", "dilated_depthwise", "pool_of_4", "pool_of_6"):
        assert set(said[layer].values()) == {True}, layer
    for layer in ("resize", "dense_4d", "dense", "softmax", "same_add", "floor", "gelu", "pad_channels"):
        assert set(said[layer].values()) == {True}, layer
    assert said["broadcast_add"]["ADD"] is True
    assert said["wide_depthwise"] == {"DEPTHWISE_CONV_2D": False}
    assert said["outer_product"]["MUL"] is False
    assert said["top"]["TOPK_V2"] is False
    assert said["five_dimensions"] == {"RESHAPE": False}
    assert said["flat_slice"] == {"STRIDED_SLICE": False} and said["image_slice"] == {"STRIDED_SLICE": True}
    why = {row.operator: row.why for row in check_target(content, "gpu").outside}
    assert "multiplier of 1" in why["DEPTHWISE_CONV_2D"] and "not an operator of the GPU" in why["TOPK_V2"]
    assert "5 dimensions" in why["RESHAPE"]
    imitated = "computes 8-bit operators as floats" in "".join(check_target(content, "gpu").notes)
    assert imitated == (precision == "int8")


def test_the_gpu_delegate_and_a_product_of_different_rank_is_not_known(process):
    """Newer versions broadcast it, older ones leave it to the CPU."""
    image, flat = keras.Input((4, 4), name="image"), keras.Input((4,), name="flat")
    model = keras.Model([image, flat], layers.Lambda(lambda x: x[0] + x[1], name="sum")([image, flat]))
    content = _file("ranks", model, "float32", process)
    (row,) = [row for row in check_target(content, "gpu").rows if row.operator == "ADD"]
    report = check_target(content, "gpu")
    assert row.fits is None and "depends on the delegate's version" in row.why
    assert report.fits is None and report.problem().startswith("it is not known whether 1 of")
    assert "unknown" in str(report) and report.to_dict()["fits"] is None


@pytest.mark.parametrize("codes, fits", [((1,), True), ((4,), False)])
def test_the_gpu_delegate_makes_one_hot_codes_of_one_index(codes, fits, process):
    """Channels alone may be of another size than 1."""
    import tensorflow as tf

    indices = keras.Input(codes, dtype="int32", name="indices")
    model = keras.Model(
        indices, layers.Lambda(lambda x: tf.one_hot(x[..., None], 3), output_shape=(*codes, 1, 3), name="code")(indices)
    )
    recipe = Recipe("float32", calibration=np.zeros((4, *codes), "int32"), check_range=False)
    with Converter(model, process=process) as converter:
        content = converter.draft(recipe)[0]
    found = {row.operator: row.fits for row in check_target(content, "gpu").rows}
    assert found["ONE_HOT"] is fits


def test_esp_nn_says_which_operators_run_on_reference_kernels(process):
    content = _file("image", _image_model(), "int8", process)
    rows = _answers(content, "esp32-s3")

    def why(layer, operator):
        return next(text for name, _, text in rows[layer] if name == operator)

    assert why("plain_conv", "CONV_2D") == why("plain_depthwise", "DEPTHWISE_CONV_2D") == ""
    assert why("wide_depthwise", "DEPTHWISE_CONV_2D") == why("dense", "FULLY_CONNECTED") == ""
    assert why("softmax", "SOFTMAX") == why("same_add", "ADD") == why("pool_of_4", "AVERAGE_POOL_2D") == ""
    assert "no dilation" in why("dilated_conv", "CONV_2D")
    assert "no dilation" in why("dilated_depthwise", "DEPTHWISE_CONV_2D")
    assert "multiples of 4" in why("pool_of_6", "MAX_POOL_2D")
    assert "two tensors of one shape" in why("broadcast_add", "ADD")
    assert why("resize", "RESIZE_BILINEAR") == "reference kernel: ESP-NN has none"
    grouped = [(fits, text) for name, fits, text in rows["grouped_conv"] if name == "CONV_2D"]
    assert all(fits is None and "grouped" in text for fits, text in grouped) or len(grouped) == 2


def test_esp_nn_computes_integers_alone(process):
    report = check_target(_file("image", _image_model(), "float32", process), "esp32-s3")
    (why,) = {row.why for row in report.rows if row.operator == "SOFTMAX"}
    assert why == "reference kernel: ESP-NN computes int8 alone"
    assert dict(report.facts)["in ESP-NN"].startswith("0 of ")


@pytest.mark.parametrize("target, table", [("qualcomm", qualcomm), ("mediatek", mediatek)])
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_npus_by_their_documentation(target, table, precision, process, monkeypatch):
    content = _file("image", _image_model(), precision, process)
    monkeypatch.setattr("tfstruct.convert.devices.litert_npu.sdk", lambda module: None)
    report = check_target(content, target)
    assert {row.operator: row.fits for row in report.rows} == {
        row.operator: row.operator in table.OPERATORS for row in report.rows
    }
    assert "documentation" in report.judge and f"ai-edge-litert-sdk-{target}" in report.notes[0]
    assert "may leave more to the CPU" in report.notes[1]


def test_google_tensor_is_not_known_but_for_what_its_plugin_refuses(process):
    video = keras.Input((4, 4, 4, 2), name="video")
    x = layers.Conv3D(2, 2, name="conv_3d")(video)
    content = _file("video", keras.Model(video, layers.Dense(2)(layers.Flatten()(x))), "float32", process)
    report = check_target(content, "google-tensor")
    assert {row.operator: row.fits for row in report.rows} == {
        row.operator: False if row.operator in google_tensor.REFUSED else None for row in report.rows
    }
    assert report.fits is False and [row.operator for row in report.outside] == ["CONV_3D"]
    assert {row.why for row in report.unknown} == {"only its compiler knows"}


def test_the_edge_tpu_leaves_open_which_sizes_it_resizes_to(process):
    said = _fits(_file("image", _image_model(), "int8", process), "edgetpu")
    assert said["resize"]["RESIZE_BILINEAR"] is None
    assert said["dilated_depthwise"] == {"DEPTHWISE_CONV_2D": True}
    assert said["pad_channels"]["PAD"] is True
    assert said["dense_4d"]["FULLY_CONNECTED"] is False


def test_the_edge_tpu_may_leave_a_large_reshape_to_the_cpu(process):
    inputs = keras.Input((8, 8, 3), name="x")
    content = _file("flat", keras.Model(inputs, layers.Reshape((64, 3), name="flat")(inputs)), "int8", process)
    (row,) = check_target(content, "edgetpu").rows
    assert row.fits and row.why.startswith("of 192 elements; supported with tensors that are not too large")


def test_the_edge_tpu_has_the_operators_of_its_documentation():
    """The names of the table on coral.ai, as a post of 2024 copied them."""
    documented = """Add AveragePool2d Concatenation Conv2d DepthwiseConv2d ExpandDims FullyConnected L2Normalization
        Logistic LSTM Maximum MaxPool2d Mean Minimum Mul Pack Pad PReLU Quantize ReduceMax ReduceMin ReLU ReLU6
        ReLUN1To1 Reshape ResizeBilinear ResizeNearestNeighbor Rsqrt Slice Softmax SpaceToDepth Split Squeeze
        StridedSlice Sub Sum Squared-difference Tanh Transpose TransposeConv"""
    plain = {name.replace("_", "").replace("UNIDIRECTIONALSEQUENCE", ""): name for name in edgetpu.OPERATORS}
    assert sorted(name.upper().replace("-", "") for name in documented.split()) == sorted(plain)


@pytest.mark.parametrize("axis, fits", [(0, False), (1, True)])
def test_the_edge_tpu_packs_and_splits_no_batch(axis, fits, process):
    inputs = keras.Input((4,), name="x", batch_size=2)
    stacked = layers.Lambda(lambda x: ops.stack([x, ops.relu(x)], axis=axis), name="stack")(inputs)
    content = _file(f"stack{axis}", keras.Model(inputs, stacked), "int8", process)
    found = {row.operator: row.fits for row in check_target(content, "edgetpu").rows}
    assert found["PACK"] is fits


@pytest.mark.parametrize(
    "given, made, fits",
    [((1, 1, 10), (10,), True), ((1, 1, 5, 10), (1, 5, 10), True), ((1, 5, 1, 10), (1, 5, 10), False)],
)
def test_the_edge_tpu_squeezes_in_front_alone(given, made, fits):
    assert edgetpu._only_leading(given, made) is fits
    assert edgetpu.OPERATORS["SQUEEZE"]


def test_a_tensor_of_an_open_size_is_said(process):
    inputs = keras.Input((8, 8, 3), name="x")
    model = keras.Model(inputs, layers.Conv2D(2, 3, name="conv")(inputs))
    recipe = Recipe("int8", calibration=np.zeros((4, 8, 8, 3), "float32"), batch_size=None, check_range=False)
    with Converter(model, process=process) as converter:
        content = converter.draft(recipe)[0]
    assert check_target(content, "gpu").rows[0].fits is None and check_target(content, "edgetpu").fits is False
    assert "without a fixed size" in check_target(content, "gpu").problem()


def test_tables_name_operators_of_which_the_runtime_has_kernels():
    assert set(esp32.OPTIMIZED) <= set(micro.OPERATORS)
    assert set(gpu._RULES) <= set(gpu.OPERATORS)
    limited = {name for name, limit in edgetpu.OPERATORS.items() if limit}
    assert {"SOFTMAX", "PACK", "SPLIT", "CONCATENATION"} <= limited


@pytest.mark.parametrize("target", ["gpu", "edgetpu", "esp32-s3", "qualcomm", "mediatek", "google-tensor"])
@pytest.mark.parametrize("damage", ["no options", "no inputs", "scalars", "other options"])
def test_what_no_converter_writes_is_judged_without_a_fault(damage, target, process, monkeypatch):
    """A file is data of others: rules find in it what the schema allows."""
    monkeypatch.setattr(micro, "version", lambda: None)  # the runtime refuses such files itself, and says so
    model = flatbuffer.read(_file("image", _image_model(), "int8", process))
    for operator in model.subgraphs[0].operators:
        if damage == "no options":
            operator.builtinOptions, operator.builtinOptionsType = None, 0
        elif damage == "no inputs":
            operator.inputs = []
        elif damage == "other options":
            operator.builtinOptions = schema.CastOptionsT()
            operator.builtinOptionsType = schema.BuiltinOptions.CastOptions
    if damage == "scalars":
        for tensor in model.subgraphs[0].tensors:
            tensor.shape = tensor.shapeSignature = None
    try:
        report = check_target(flatbuffer.write(model), target)
    except ConversionError as error:  # constants of another size than their shape
        assert damage == "scalars" and "A damaged .tflite file" in str(error)
        return
    assert all(row.fits in (True, False, None) for row in report.rows)
    assert all(row.why for row in report.rows if not row.fits)
