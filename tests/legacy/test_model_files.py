"""Model files load as Keras loads them, from either generation, and none runs code that was not trusted."""

import json
import pathlib
import shutil
import zipfile

import h5py
import keras
import numpy as np
import pytest
from keras import layers

from tfstruct import legacy
from tfstruct.errors import ModelError

X = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)


@keras.saving.register_keras_serializable("test_legacy")
class Tripled(layers.Layer):
    """A custom layer that is registered."""

    def call(self, x):
        return x * 3.0


class Unregistered(layers.Layer):
    def call(self, x):
        return x


def network(*before) -> keras.Sequential:
    keras.utils.set_random_seed(0)
    tail = [layers.Conv2D(4, 3, name="conv"), layers.Flatten(name="flat"), layers.Dense(3, name="head")]
    return keras.Sequential([keras.Input((8, 8, 1), name="image"), *before, *tail], name="network")


def two_inputs() -> keras.Model:
    keras.utils.set_random_seed(1)
    a, b = keras.Input((8, 8, 1), name="a"), keras.Input((3,), name="b")
    x = layers.BatchNormalization(name="norm")(layers.Conv2D(4, 3, strides=2, name="conv")(a))
    x = layers.GlobalAveragePooling2D(name="gap")(layers.ReLU(6.0, name="relu6")(x))
    return keras.Model([a, b], layers.Dense(2, name="head")(layers.Concatenate(name="join")([x, b])), name="two_inputs")


@pytest.fixture
def saved(tmp_path):
    """Saves a model and returns the path."""

    def save(model, name: str) -> pathlib.Path:
        model.save(tmp_path / name)
        return tmp_path / name

    return save


def rewritten(path: pathlib.Path, text: str) -> pathlib.Path:
    """A copy of a model file with another description."""
    copy = path.with_stem("rewritten")
    if path.suffix == ".h5":
        shutil.copy(path, copy)
        with h5py.File(copy, "a") as file:
            file.attrs["model_config"] = text
        return copy
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(copy, "w") as target:
        for name in source.namelist():
            target.writestr(name, text if name == "config.json" else source.read(name))
    return copy


def description(path: pathlib.Path) -> dict:
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            return json.loads(file.attrs["model_config"])
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("config.json"))


def refuse(match: str, path, **options) -> None:
    """Loading raises a ModelError of one line that matches and names the file."""
    with pytest.raises(ModelError, match=match) as caught:
        legacy.load(path, **options)
    assert "\n" not in str(caught.value) and pathlib.Path(path).name in str(caught.value)


# What loads -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
@pytest.mark.parametrize("build", [network, two_inputs])
def test_loads_what_keras_3_wrote(saved, build, name):
    model = build()
    model.compile("adam", "mse")
    x = [X, X[:, 0, :3, 0]] if build is two_inputs else X
    loaded = legacy.load(saved(model, name))
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    assert not loaded.compiled


def test_loads_by_any_suffix_of_hdf5_and_by_any_kind_of_path(saved):
    path = saved(network(), "m.h5")
    path = path.rename(path.with_suffix(".hdf5"))
    assert legacy.load(str(path)).name == legacy.load(path).name == "network"


def test_loads_what_keras_2_wrote(tmp_path):
    import tf_keras

    tf_keras.utils.set_random_seed(0)
    image = tf_keras.Input((8, 8, 1))
    x = tf_keras.layers.Conv2D(4, 3, padding="same", activation="relu")(image)
    shortcut = x = tf_keras.layers.BatchNormalization()(x)
    x = tf_keras.layers.Conv2D(4, 3, padding="same")(x)
    x = tf_keras.layers.ReLU(6.0)(tf_keras.layers.Add()([x, shortcut]))
    x = tf_keras.layers.MaxPooling2D()(x)
    x = tf_keras.layers.Dropout(0.5)(tf_keras.layers.Flatten()(x))
    model = tf_keras.Model(image, tf_keras.layers.Dense(3, activation="softmax")(x))
    model.compile("adam", "categorical_crossentropy")
    model.fit(X, np.eye(3)[[0, 1, 2, 0]], epochs=2, verbose=0)  # statistics of batch norm that are not the default
    model.save(tmp_path / "keras2.h5")
    loaded = legacy.load(tmp_path / "keras2.h5")
    assert isinstance(loaded, keras.Model)
    np.testing.assert_allclose(loaded.predict(X, verbose=0), model.predict(X, verbose=0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
def test_a_registered_layer_needs_no_trust(saved, name):
    model = network(Tripled(name="tripled"))
    loaded = legacy.load(saved(model, name))
    assert isinstance(loaded.get_layer("tripled"), Tripled)
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), model.predict(X, verbose=0))


@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
def test_a_lambda_loads_with_trust_only(saved, name):
    model = network(layers.Lambda(lambda x: x * 2.0 + 1.0, name="scale"))
    path = saved(model, name)
    refuse("the Lambda layer 'scale', which runs code", path)
    loaded = legacy.load(path, trust=True)
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), model.predict(X, verbose=0))


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
@pytest.mark.parametrize("wrap", [lambda x: x, layers.TimeDistributed], ids=["bare", "wrapped"])
def test_a_lambda_does_not_run(saved, tmp_path, wrap, name):
    target = str(tmp_path / "ran")
    touch = layers.Lambda(lambda x: (__import__("pathlib").Path(target).touch(), x)[1], name="touch")
    path = saved(network(wrap(touch)), name)
    pathlib.Path(target).unlink(missing_ok=True)
    refuse("the Lambda layer 'touch', which runs code.*trust=True", path)
    assert not pathlib.Path(target).exists()


@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
def test_a_lambda_in_a_nested_model_is_found(saved, name):
    inner = keras.Sequential([keras.Input((8, 8, 1)), layers.Lambda(lambda x: x, name="deep")], name="inner")
    refuse("the Lambda layer 'deep'", saved(network(inner), name))


PARTS = {
    "lambda-function": ({"class_name": "__lambda__", "config": {"value": "4wAA"}}, "a serialized function"),
    "function-with-code": ({"class_name": "function", "config": {"code": "4wAA"}}, "a serialized function"),
    "function-of-os": (
        {"class_name": "function", "config": "system", "module": "os"},
        r"needs the custom function os\.system, which is not registered.*'head'",
    ),
    "class-of-os": ({"class_name": "system", "config": {}, "module": "os"}, r"os\.system, .*not registered"),
    "class-in-a-list": ([[{"class_name": "Popen", "config": {}, "module": "subprocess"}]], r"subprocess\.Popen"),
    "name-like-keras": ({"class_name": "Dense", "config": {}, "module": "keras_evil.layers"}, r"keras_evil\.layers"),
    "unregistered-name": ({"class_name": "A", "config": {}, "module": "b", "registered_name": "c>A"}, r"b\.A, .*not"),
    # A name of another kind than text is no reason to crash.
    "module-is-a-number": ({"class_name": "Dense", "config": {}, "module": 5}, "."),
    "module-is-a-list": ({"class_name": "Dense", "config": {}, "module": ["os"]}, "."),
    "registered-is-a-list": ({"class_name": "A", "config": {}, "module": "b", "registered_name": ["A"]}, "."),
    "class-is-a-list": ({"class_name": ["A"], "config": {}, "module": "b"}, "."),
    "lambda-without-config": ({"class_name": "Lambda", "config": None}, "the Lambda layer ''"),
}


@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
@pytest.mark.parametrize(("part", "says"), PARTS.values(), ids=PARTS)
def test_a_hostile_part_is_refused_wherever_it_stands(saved, part, says, name):
    path = saved(network(), name)
    config = description(path)
    config["config"]["layers"][-1]["config"]["activation"] = part
    refuse(says, rewritten(path, json.dumps(config)))


def test_an_unregistered_class_says_what_to_import(saved):
    path = saved(network(Unregistered()), "m.keras")
    refuse(rf"{__name__}\.Unregistered, which is not registered. Import the module", path)
    # Keras imports no module by the path in the file: trust cannot help, so it must not be all the advice there is.
    refuse("Unregistered.*--import", path, trust=True)


@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("depth", [300, 900, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"config": ', "}")], ids=["lists", "dicts"])
def test_a_recursion_bomb_is_refused(saved, opening, closing, depth, trust, name):
    if name == "m.h5" and depth * len(opening) > 60_000:
        depth = 60_000 // (len(opening) + 1)  # an attribute of an HDF5 file holds 64 KB
    text = opening * depth + "1" + closing * depth
    refuse(".", rewritten(saved(network(), name), text), trust=trust)


def test_a_recursion_bomb_in_a_whole_model_is_refused(saved):
    path = saved(network(), "m.keras")
    config = description(path)
    for _ in range(200):
        config = {
            "class_name": "Sequential",
            "config": {"layers": [config]},
            "module": "keras",
            "registered_name": None,
        }
    refuse(".", rewritten(path, json.dumps(config)))


@pytest.mark.parametrize("text", ["null", "7", '"text"', "[]", "[1, 2]", "{}", '{"class_name": "Sequential"}'])
@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
def test_a_description_of_no_model_is_refused(saved, text, name):
    refuse(".", rewritten(saved(network(), name), text))


@pytest.mark.parametrize("value", [7, np.arange(3), h5py.Empty("f"), np.void(b"\xff\xfe"), b"\xff\xfe", "{"], ids=str)
def test_a_description_that_is_no_text_is_refused(saved, value):
    path = saved(network(), "m.h5")
    with h5py.File(path, "a") as file:
        del file.attrs["model_config"]
        file.attrs["model_config"] = value
    refuse(".", path)


def test_an_h5_file_without_anything_says_so_once(tmp_path):
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    with pytest.raises(ModelError, match="holds no model") as caught:
        legacy.load(tmp_path / "empty.h5")
    assert "no model, no model" not in str(caught.value)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_stream_in_a_whole_archive_is_refused(saved, compression):
    text = json.dumps(description(path := saved(network(), "m.keras"))).encode()
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("config.json", text)
        archive.writestr("model.weights.h5", b"")
    content = bytearray(path.read_bytes())
    start = 30 + len("config.json") + 9  # behind the header of the stream
    content[start : start + 60] = b"\xff" * 60
    path.write_bytes(content)
    refuse("damaged or cut short", path)


def test_an_encrypted_archive_is_refused(saved):
    path = saved(network(), "m.keras")
    content = bytearray(path.read_bytes())
    for magic, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = -1
        while (at := content.find(magic, at + 1)) >= 0:
            content[at + flags] |= 1
    path.write_bytes(content)
    refuse("damaged.*encrypted", path)


@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
def test_a_file_cut_anywhere_is_refused(saved, name):
    path = saved(network(), name)
    content = path.read_bytes()
    for size in np.linspace(0, len(content) - 1, 12).astype(int):
        path.write_bytes(content[:size])
        refuse("is empty|damaged", path)


def test_weights_of_another_architecture_are_refused(saved):
    small, large = saved(network(), "small.keras"), saved(two_inputs(), "large.keras")
    refuse("Keras cannot load", rewritten(small, json.dumps(description(large))))
