"""Metadata by TensorFlow Lite's schema: written, read back, read by the schema's own reader, never trusted."""

import importlib.util
import io
import zipfile

import keras
import numpy as np
import pytest
from keras import layers

from tfstruct import cli, to_tflite
from tfstruct.convert import (
    Converter,
    Metadata,
    PortMetadata,
    describe,
    file_notes,
    flatbuffer,
    metadata,
    metadata_schema,
    micro,
    pack,
    read_metadata,
    unpack,
    write_metadata,
)
from tfstruct.convert.runtime import Runtime
from tfstruct.errors import ArgumentError, ConversionError, DataError
from tfstruct.samples import Preprocess

X = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3)).astype("float32")
LABELS = ("Katze", "chien é", "鳥")
ABOUT = Metadata(
    "net", "what it does", "1.2", "me", "MIT",
    {"image": PortMetadata("a picture")}, {"scores": PortMetadata("how sure", labels=LABELS)},
)  # fmt: skip


@pytest.fixture(scope="module")
def files(process):
    keras.utils.set_random_seed(0)
    x, weather = keras.Input((8, 8, 3), name="image"), keras.Input((4,), name="weather")
    y = layers.Conv2D(4, 3, padding="same")(layers.Rescaling(1 / 127.5, offset=-1, name="norm")(x))
    h = layers.Concatenate()([layers.GlobalAveragePooling2D()(y), layers.Dense(4)(weather)])
    outputs = {"size": layers.Dense(1)(h), "scores": layers.Dense(3, activation="softmax")(h)}
    data = {"image": X, "weather": np.random.default_rng(1).normal(size=(40, 4)).astype("float32")}
    with Converter(keras.Model([x, weather], outputs), process=process) as converter:
        folded = converter.convert("int8", calibration=data, input_type={"image": "uint8"}, measure_latency=False)
        return folded, converter.convert("float32", verification=data, measure_latency=False)


@pytest.fixture(scope="module")
def file(files):
    return files[0].with_metadata(ABOUT)


def test_what_is_written_is_read_back(file, files, tmp_path):
    found = read_metadata(file)
    assert (found.name, found.description, found.version, found.author, found.license) == (
        "net", "what it does", "1.2", "me", "MIT",
    )  # fmt: skip
    assert found.labels == {"scores": LABELS}
    assert (found.inputs["image"].content, found.inputs["weather"].content) == ("image", "feature")
    assert found.inputs["image"].description == "a picture" and found.outputs["scores"].description == "how sure"
    assert read_metadata(files[0]) is None
    # The model is the same, and metadata written once more replaces it.
    x = {"image": X[:3], "weather": np.zeros((3, 4), "float32")}
    for name, value in file.predict(x).items():
        np.testing.assert_array_equal(value, files[0].predict(x)[name])
    again = write_metadata(file.content, ABOUT)
    assert read_metadata(again) == found and len(again) < 1.1 * len(file.content)
    assert file.report.size == len(file.content) and file.inputs == files[0].inputs
    assert unpack(pack(file)) == file.content and read_metadata(unpack(pack(file))) == found
    file.save(tmp_path / "m.tflite")
    assert read_metadata(tmp_path / "m.tflite") == found
    text = str(describe(tmp_path / "m.tflite"))
    assert "what it does" in text and "3 labels: Katze, chien é, 鳥" in text


def test_the_labels_are_a_file_behind_the_model(file):
    with zipfile.ZipFile(io.BytesIO(file.content)) as archive:
        assert archive.namelist() == ["scores_labels.txt"]
        assert archive.read("scores_labels.txt").decode().splitlines() == list(LABELS)


def test_normalization_by_hand(files):
    """A folded Rescaling: pixels x go to x / 127.5 - 1 = (x - 127.5) / 127.5, up to the whole zero point."""
    image = read_metadata(files[0].with_metadata(ABOUT)).inputs["image"]
    assert image.std[0] == pytest.approx(127.5) and image.mean[0] in (pytest.approx(127.0), pytest.approx(128.0))
    # By the schema: normalize, then quantize by the file's own scale: the pixel itself.
    detail = next(d for d in Runtime(files[0].content)._interpreter.get_input_details() if d["dtype"] == np.uint8)
    scale, zero = detail["quantization"]
    pixels = np.arange(256)
    np.testing.assert_array_equal(np.round((pixels - image.mean[0]) / image.std[0] / scale + zero), pixels)
    taken = "goes in as it is: the scale is the normalization"
    assert taken in str(describe(files[0].with_metadata(ABOUT))) and taken not in str(describe(files[0]))
    other = Metadata(inputs={"image": {"mean": 100.0, "std": 2.0}})
    assert taken not in str(describe(write_metadata(files[0].content, other)))
    plain = read_metadata(files[1].with_metadata(ABOUT)).inputs["image"]
    assert (plain.mean, plain.std) == ((0.0,), (1.0,))
    given = Metadata(inputs={"image": {"mean": (1.0, 2.0, 3.0), "std": 2.0}})
    assert read_metadata(write_metadata(files[1].content, given)).inputs["image"].mean == (1.0, 2.0, 3.0)


def test_preprocessing_of_the_recipe_is_noted():
    """x = (2 raw - (1, 2, 3)) / (4, 4, 8): mean 0.5, 1, 1.5, std 2, 2, 4."""
    model = keras.Sequential([keras.Input((8, 8, 3), name="image"), layers.Flatten(), layers.Dense(2)])
    steps = Preprocess(scale=2.0, mean=(1.0, 2.0, 3.0), std=(4.0, 4.0, 8.0))
    file = to_tflite(model, "float32", preprocess=steps, verification=X, measure_latency=False)
    found = read_metadata(file.with_metadata(Metadata())).inputs["image"]
    assert found.mean == pytest.approx((0.5, 1.0, 1.5)) and found.std == pytest.approx((2.0, 2.0, 4.0))


def test_the_readers_own_schema_agrees(file):
    """That of MediaPipe, where it is installed: only its generated reader is needed."""
    try:
        found = importlib.util.find_spec("mediapipe.tasks.metadata.metadata_schema_py_generated")
    except ImportError:
        found = None
    if found is None:
        pytest.skip("mediapipe is not installed")
    schema = importlib.import_module("mediapipe.tasks.metadata.metadata_schema_py_generated")
    note = file_notes.read_note(file.content, "TFLITE_METADATA")
    assert schema.ModelMetadata.ModelMetadataBufferHasIdentifier(note, 0)
    told = schema.ModelMetadataT.InitFromObj(schema.ModelMetadata.GetRootAs(note, 0))
    assert (told.name, told.author, told.license, told.version) == (b"net", b"me", b"MIT", b"1.2")
    (graph,) = told.subgraphMetadata
    model = flatbuffer.read(file.content)
    tensors = model.subgraphs[0].tensors
    assert [one.name for one in graph.inputTensorMetadata] == [tensors[i].name for i in model.subgraphs[0].inputs]
    assert len(graph.outputTensorMetadata) == len(model.subgraphs[0].outputs)
    image = next(one for one in graph.inputTensorMetadata if one.name == b"image")
    assert image.content.contentPropertiesType == schema.ContentProperties.ImageProperties
    assert image.content.contentProperties.colorSpace == schema.ColorSpaceType.RGB
    options = image.processUnits[0]
    assert options.optionsType == schema.ProcessUnitOptions.NormalizationOptions
    assert options.options.std[0] == pytest.approx(127.5)
    scores = next(one for one in graph.outputTensorMetadata if one.name == b"scores")
    assert scores.associatedFiles[0].type == schema.AssociatedFileType.TENSOR_AXIS_LABELS
    assert scores.associatedFiles[0].name == b"scores_labels.txt"


def test_microcontrollers_pass_it_over(file, files):
    if micro.version() is None:
        pytest.skip("tflite-micro is not installed")
    x = {"image": X[:2].astype("uint8"), "weather": np.zeros((2, 4), "float32")}
    for name, value in micro.run(file.content, x).outputs.items():
        np.testing.assert_array_equal(value, micro.run(files[0].content, x).outputs[name])


@pytest.mark.parametrize(
    "about, what",
    [
        ({"outputs": {"score": {}}}, "no output"),
        ({"inputs": {"picture": {}}}, "no input"),
        ({"outputs": {"scores": {"labels": ["a", "b"]}}}, "3 columns. Received 2 labels"),
        ({"outputs": {"scores": {"labels": ["a", "b\nc", "d"]}}}, "one line"),
        ({"inputs": {"image": {"mean": 1.0}}}, "go together"),
        ({"inputs": {"image": {"content": "sound"}}}, "image"),
    ],
)
def test_what_does_not_fit_is_refused(files, about, what):
    with pytest.raises(ArgumentError, match=what):
        files[0].with_metadata(Metadata(**about))


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.sweep(8)
def test_damaged_metadata_raises_one_kind_of_error(file, seed):
    rng = np.random.default_rng(seed)
    note = bytearray(file_notes.read_note(file.content, "TFLITE_METADATA"))
    for place in rng.integers(0, len(note), 1 + seed % 8):
        note[place] = rng.integers(0, 256)
    model = flatbuffer.read(file.content)
    file_notes.write_note(model, "TFLITE_METADATA", bytes(note[: rng.integers(4, len(note) + 1)]))
    damaged = flatbuffer.write(model) + file.content[file.content.rindex(b"PK\x03\x04") :]
    try:
        assert isinstance(read_metadata(damaged), Metadata)
    except ConversionError as error:
        assert "\n" not in str(error)


def test_a_description_that_names_itself_again_and_again_is_refused():
    """4 bytes of a vector name a table each: a small file becomes millions of values."""
    tensor = {"name": "x", "dimension_names": ["a"] * 200}
    data = {"subgraph_metadata": [{"input_tensor_metadata": [tensor] * 600}]}
    with pytest.raises(ValueError, match="more than 100,000 values"):
        metadata_schema.read(metadata_schema.write(data))


def test_a_label_file_of_many_bytes_is_refused(file, monkeypatch, tmp_path):
    monkeypatch.setattr(metadata, "_MOST_LABELS", 4)
    with pytest.raises(ConversionError, match="more than 4 bytes"):
        read_metadata(file)
    (tmp_path / "l.txt").write_text("cat\ndog\n")
    with pytest.raises(DataError, match="more than 4 bytes"):
        metadata.read_labels(tmp_path / "l.txt")


def test_the_command(tmp_path, monkeypatch, capsys):
    keras.Sequential([keras.Input((6,), name="x"), layers.Dense(3, name="scores")]).save(tmp_path / "m.keras")
    (tmp_path / "labels.txt").write_text("a\nb\nc\n\n")
    monkeypatch.chdir(tmp_path)
    arguments = ["m.keras", "-o", "m.tflite", "--no-latency", "--quiet"]
    assert cli.main([*arguments, "--labels-file", "labels.txt", "--author", "me", "--license", "MIT"]) == 0
    found = read_metadata("m.tflite")
    assert found.labels == {"scores": ("a", "b", "c")} and (found.author, found.license) == ("me", "MIT")
    for given, what in [(["none.txt"], "there is no file none.txt"), (["x=labels.txt"], "no output")]:
        assert cli.main([*arguments, "--overwrite", "--labels-file", *given]) == 2
        error = capsys.readouterr().err
        assert what in error and error.count("\n") == 1
