"""Whatever is wrong with the input: exit status 2, one line on stderr that helps, and no file changed or left."""

import dataclasses
import errno
import io
import json
import os
import pathlib
import re
import shutil
import signal
import sys
import warnings
import zipfile
from collections.abc import Callable

import h5py
import keras
import numpy as np
import pytest
from keras import layers

from tfstruct import cli

Argv = list[str]


@dataclasses.dataclass(frozen=True)
class Files:
    """What all cases share and none changes.

    Attributes:
        model, h5: a small classifier of (8, 8, 1) images, in both formats.
        normed: the same with a batch norm whose statistics come from images in 0..1.
        rescaled: the same behind Rescaling(1/255).
        data: 32 images in 0..1 as `x`, labels as `y`.
    """

    model: pathlib.Path
    h5: pathlib.Path
    normed: pathlib.Path
    rescaled: pathlib.Path
    data: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Bench:
    """A folder for the bad input of one case, an empty one for its output, and the shared files."""

    folder: pathlib.Path
    files: Files
    patch: pytest.MonkeyPatch

    @property
    def out(self) -> pathlib.Path:
        return self.folder / "out" / "model.tflite"

    @property
    def payload(self) -> pathlib.Path:
        """The file that appears if code from the input has run."""
        return self.folder / "payload-ran"

    def argv(self, *options, model=None, out=None) -> Argv:
        return [str(part) for part in (model or self.files.model, "-o", out or self.out, *options)]

    def int8(self, calibration, *options, model=None) -> Argv:
        return self.argv("--precision", "int8", "--calibration", calibration, *options, model=model)

    def file(self, name: str, content: bytes = b"") -> pathlib.Path:
        (self.folder / name).write_bytes(content)
        return self.folder / name

    def arrays(self, **arrays) -> pathlib.Path:
        np.savez(self.folder / "data.npz", **arrays)
        return self.folder / "data.npz"

    def array(self, array) -> pathlib.Path:
        np.save(self.folder / "data.npy", array, allow_pickle=True)
        return self.folder / "data.npy"

    def saved(self, model: keras.Model, name: str = "bad.keras") -> pathlib.Path:
        model.save(self.folder / name)
        # Lambda layers run once while a model is built.
        self.payload.unlink(missing_ok=True)
        return self.folder / name

    def rewritten(self, change: Callable[[dict], object]) -> pathlib.Path:
        """The model with its description changed: by a function that edits it, or returns other text."""
        with zipfile.ZipFile(self.files.model) as source, zipfile.ZipFile(self.folder / "bad.keras", "w") as target:
            for name in source.namelist():
                content = source.read(name)
                if name == "config.json":
                    config = json.loads(content)
                    new = change(config)
                    content = new if isinstance(new, str) else json.dumps(config)
                target.writestr(name, content)
        return self.folder / "bad.keras"

    def described(self, config) -> pathlib.Path:
        """The `.h5` model with another value as its description."""
        path = shutil.copy(self.files.h5, self.folder / "bad.h5")
        with h5py.File(path, "a") as file:
            del file.attrs["model_config"]
            file.attrs["model_config"] = config
        return path

    def snapshot(self) -> dict[str, bytes | None]:
        paths = sorted(self.folder.rglob("*"))
        return {str(p): p.read_bytes() if p.is_file() else None for p in paths if "__pycache__" not in p.parts}


def classifier(*before, shape=(8, 8, 1), **options) -> keras.Sequential:
    inputs = keras.Input(shape, name="image", **options)
    head = [layers.Conv2D(4, 3, name="conv"), layers.GlobalAveragePooling2D(name="gap"), layers.Dense(3, name="head")]
    return keras.Sequential([inputs, *before, *head], name="classifier")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Files:
    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("shared")
    found = Files(*(folder / n for n in ("model.keras", "model.h5", "normed.keras", "rescaled.keras", "data.npz")))
    x = np.random.default_rng(0).random((32, 8, 8, 1), np.float32)
    np.savez(found.data, x=x, y=np.arange(32) % 3)
    norm = layers.BatchNormalization(momentum=0.0, name="norm")
    normed = classifier(norm)
    norm(x, training=True)
    for path, model in (
        (found.model, plain := classifier()),
        (found.h5, plain),
        (found.normed, normed),
        (found.rescaled, classifier(layers.Rescaling(1 / 255, name="rescale"))),
    ):
        model.save(path)
    return found


@pytest.fixture
def bench(files, tmp_path, monkeypatch) -> Bench:
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return Bench(tmp_path, files, monkeypatch)


@pytest.fixture(autouse=True)
def _time_limit():
    """No input hangs the command."""

    def give_up(*_):
        pytest.fail("hangs")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, 12)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


# Model files ---------------------------------------------------------------------------------------------------------


def savedmodel_folder(t: Bench) -> Argv:
    (t.folder / "exported").mkdir()
    t.file("exported/saved_model.pb", b"\x08\x01")
    return t.argv(model=t.folder / "exported")


def truncated(name: str) -> Callable[[Bench], Argv]:
    def build(t: Bench) -> Argv:
        content = (t.files.model.parent / name).read_bytes()
        return t.argv(model=t.file(name, content[: len(content) * 2 // 3]))

    return build


def zip_bomb(t: Bench) -> Argv:
    with zipfile.ZipFile(t.folder / "bomb.keras", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("config.json", "{}")
        with archive.open("model.weights.h5", "w", force_zip64=True) as weights:
            for _ in range(65):  # just above 1 GiB, 5 MB on disk
                weights.write(bytes(1 << 24))
    assert (t.folder / "bomb.keras").stat().st_size < 10 << 20
    return t.argv(model=t.folder / "bomb.keras")


def archive(**members: bytes) -> Callable[[Bench], Argv]:
    def build(t: Bench) -> Argv:
        with zipfile.ZipFile(t.folder / "bad.keras", "w") as file:
            for name, content in members.items():
                file.writestr(name, content)
        return t.argv(model=t.folder / "bad.keras")

    return build


def flipped_bytes(t: Bench) -> Argv:
    """The archive's directory is whole, the compressed description is not."""
    path = t.folder / "bad.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("config.json", json.dumps({"class_name": "Sequential"} | {str(i): i for i in range(99)}))
        file.writestr("model.weights.h5", b"")
    content = bytearray(path.read_bytes())
    start = 30 + len("config.json")
    content[start : start + 40] = b"\xff" * 40
    path.write_bytes(content)
    return t.argv(model=path)


def weights_only(t: Bench) -> Argv:
    classifier().save_weights(t.folder / "only.weights.h5")
    return t.argv(model=t.folder / "only.weights.h5")


def unreadable_model(t: Bench) -> Argv:
    path = shutil.copy(t.files.model, t.folder / "secret.keras")
    real = open  # the tests run as root, who may read everything

    def guarded(file, *args, **kwargs):
        if str(file) == str(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
        return real(file, *args, **kwargs)

    t.patch.setattr("builtins.open", guarded)
    return t.argv(model=path)


def pipe(t: Bench) -> Argv:
    """A named pipe that nobody writes to: to open it is to wait for ever."""
    os.mkfifo(t.folder / "pipe.keras")
    signal.setitimer(signal.ITIMER_REAL, 1)
    return t.argv(model=t.folder / "pipe.keras")


def damaged_weights(t: Bench) -> Argv:
    with zipfile.ZipFile(t.files.model) as source, zipfile.ZipFile(t.folder / "bad.keras", "w") as target:
        target.writestr("config.json", source.read("config.json"))
        target.writestr("model.weights.h5", source.read("model.weights.h5")[:2000])
    return t.argv(model=t.folder / "bad.keras")


def edit_head(**changes) -> Callable[[dict], None]:
    return lambda config: config["config"]["layers"][-1].update(changes)


def lambda_model(name: str, *options: str) -> Callable[[Bench], Argv]:
    def build(t: Bench) -> Argv:
        target = str(t.payload)
        touch = layers.Lambda(lambda x: (__import__("pathlib").Path(target).touch(), x)[1], name="touch")
        return t.argv(*options, model=t.saved(classifier(touch), name))

    return build


def class_by_module_path(t: Bench) -> Argv:
    harm = {"module": "os", "class_name": "system", "config": {"command": f"touch {t.payload}"}}
    return t.argv(model=t.rewritten(edit_head(registered_name="system", **harm)))


def function_by_module_path(t: Bench) -> Argv:
    harm = {"module": "os", "class_name": "function", "config": "system", "registered_name": "system"}
    return t.argv(model=t.rewritten(lambda config: config["config"]["layers"][-1]["config"].update(activation=harm)))


class Doubled(layers.Layer):
    """A custom layer that nobody registers."""

    def call(self, x):
        return x * 2.0


def custom_layer(name: str, *options: str) -> Callable[[Bench], Argv]:
    return lambda t: t.argv(*options, model=t.saved(classifier(Doubled(name="doubled")), name))


def deep_json(t: Bench) -> Argv:
    return t.argv(model=t.rewritten(lambda config: '{"config":' * 50_000 + "1" + "}" * 50_000))


def keras2_file_function(t: Bench) -> Argv:
    """A Keras 2 file may name any function of TensorFlow, those that write files too."""
    import tf_keras

    image = tf_keras.Input((8, 8, 1))
    tf_keras.Model(image, tf_keras.layers.Flatten()(image + 3.0)).save(t.folder / "keras2.h5")
    with h5py.File(t.folder / "keras2.h5", "a") as file:
        config = json.loads(file.attrs["model_config"])
        next(p for p in config["config"]["layers"] if p["class_name"] == "TFOpLambda")["config"]["function"] = (
            "io.write_file"
        )
        file.attrs["model_config"] = json.dumps(config)
    return t.argv(model=t.folder / "keras2.h5")


def keras2_lambda(t: Bench) -> Argv:
    import tf_keras

    image = tf_keras.Input((8, 8, 1))
    x = tf_keras.layers.Lambda(lambda x: x * 2, name="touch")(image)
    tf_keras.Model(image, tf_keras.layers.Flatten()(x)).save(t.folder / "keras2", save_format="tf")
    return t.argv(model=t.folder / "keras2")


def unbuilt(t: Bench) -> Argv:
    return t.argv(model=t.saved(keras.Sequential([layers.Dense(3)])))


def a_layer(t: Bench) -> Argv:
    def change(config):
        pool = config["config"]["layers"][-2]  # one without weights, which load
        config.clear()
        config.update(pool)

    return t.argv(model=t.rewritten(change))


JUNK = np.random.default_rng(1).bytes(4000)
PAGE = b"\n<!DOCTYPE html><html><body>Sign in to download</body></html>"

MODELS = [
    ("no-arguments", lambda t: [], "No model was given.*MODEL -o OUT"),
    ("no-output", lambda t: [str(t.files.model)], r"No output was given. Expected: -o OUT\.tflite"),
    ("missing", lambda t: t.argv(model="no.keras"), r"There is no file no\.keras. Expected a \.keras or \.h5"),
    ("folder", lambda t: t.argv(model=t.folder), r"is a folder without saved_model\.pb. Expected .*model\.save"),
    ("savedmodel-cut-short", savedmodel_folder, r"exported.saved_model\.pb .*damaged or cut short.*save it again"),
    ("empty-keras", lambda t: t.argv(model=t.file("e.keras")), "is empty.*save it again"),
    ("empty-h5", lambda t: t.argv(model=t.file("e.h5")), "is empty.*save it again"),
    ("truncated-keras", truncated("model.keras"), "damaged or cut short.*save it again"),
    ("truncated-h5", truncated("model.h5"), "damaged or cut short.*save it again"),
    ("random-keras", lambda t: t.argv(model=t.file("r.keras", JUNK)), "is no zip archive.*may be damaged"),
    ("random-h5", lambda t: t.argv(model=t.file("r.h5", JUNK)), "is no HDF5 file.*may be damaged"),
    ("wrong-suffix", lambda t: t.argv(model=t.file("m.onnx", JUNK)), r"suffix '\.onnx'. Expected \.keras, \.h5"),
    ("no-suffix", lambda t: t.argv(model=t.file("model", JUNK)), r"suffix '\(none\)'. Expected \.keras, \.h5"),
    ("web-page", lambda t: t.argv(model=t.file("page.keras", PAGE)), "is a web page, not a model"),
    ("pipe", pipe, "regular file|is no file"),
    ("unreadable", unreadable_model, "No permission to read .*secret.keras. Check its mode"),
    ("zip-bomb", zip_bomb, "would unpack from .* to 1,.* bytes.*Refused"),
    ("zip-without-config", archive(**{"model.weights.h5": b""}), r"lacks config\.json, which a \.keras model has"),
    ("zip-without-weights", archive(**{"config.json": b"{}"}), r"lacks model\.weights\.h5"),
    ("zip-that-leaves", archive(**{"../../evil": b"", "config.json": b"{}"}), r"'\.\./\.\./evil'.*Refused"),
    ("zip-absolute-path", archive(**{"/tmp/evil": b"", "config.json": b"{}"}), "'/tmp/evil'.*Refused"),
    ("zip-flipped-bytes", flipped_bytes, "damaged.*save it again"),
    ("config-no-json", lambda t: t.argv(model=t.rewritten(lambda c: "{not json")), "description that is no JSON"),
    ("config-no-model", lambda t: t.argv(model=t.rewritten(lambda c: "[1, 2]")), "no model|Expected"),
    ("config-deep", deep_json, "nest|recursion"),
    ("config-of-a-layer", a_layer, r"Expected a path, a keras\.Model .*Received.*GlobalAveragePooling2D"),
    ("config-module-is-a-number", lambda t: t.argv(model=t.rewritten(edit_head(module=5))), "bad.keras.*module"),
    ("damaged-weights", damaged_weights, "is damaged or cut short .*truncated"),
    ("h5-weights-only", weights_only, r"weights only.*model\.load_weights\(.*model\.save"),
    ("h5-empty-description", lambda t: t.argv(model=t.described("{")), "description that is no JSON"),
    ("h5-deep-description", lambda t: t.argv(model=t.described("[" * 20_000 + "]" * 20_000)), "nest|recursion"),
    ("h5-number-as-description", lambda t: t.argv(model=t.described(7)), "no JSON|no model|Expected"),
    (
        "zip-named-h5",
        lambda t: t.argv(model=shutil.copy(t.files.model, "z.h5")),
        r"looks like a \.keras archive: rename",
    ),
    ("h5-named-keras", lambda t: t.argv(model=shutil.copy(t.files.h5, "h.keras")), r"HDF5 file: rename it to \.h5"),
    ("lambda-in-keras", lambda_model("bad.keras"), "the Lambda layer 'touch', which runs code.*--trust"),
    ("lambda-in-h5", lambda_model("bad.h5"), "the Lambda layer 'touch', which runs code.*--trust"),
    ("class-by-module-path", class_by_module_path, r"custom class os\.system, which is not registered"),
    ("function-by-module-path", function_by_module_path, r"needs the custom .*os\."),
    ("custom-layer-in-keras", custom_layer("bad.keras"), r"custom class .*Doubled, .*not registered.*--import MODULE"),
    ("custom-layer-in-h5", custom_layer("bad.h5"), "'Doubled' is not registered.*--import MODULE"),
    ("custom-layer-trusted", custom_layer("bad.keras", "--trust"), "Doubled.*--import MODULE"),
    ("keras2-file-function", keras2_file_function, r"the TensorFlow function 'io\.write_file', .*no counterpart"),
    ("keras2-lambda-in-savedmodel", keras2_lambda, "the Lambda layer 'touch', which runs code.*--trust"),
    ("unbuilt", unbuilt, "does not know the shape of its input yet. Call it once"),
]


# Outputs -------------------------------------------------------------------------------------------------------------


def unwritable_folder(t: Bench) -> Argv:
    real = os.access
    t.patch.setattr(os, "access", lambda path, mode: str(path) != str(t.out.parent) and real(path, mode))
    return t.argv()


def full_disk(t: Bench) -> Argv:
    def fsync(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    t.patch.setattr(os, "fsync", fsync)
    return t.argv()


def rename_refused(t: Bench) -> Argv:
    def replace(source, target):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), source, None, target)

    t.patch.setattr(os, "replace", replace)
    return t.argv()


def existing(t: Bench) -> Argv:
    t.out.write_bytes(b"precious")
    return t.argv()


def output_is_a_folder(t: Bench) -> Argv:
    t.out.mkdir()
    return t.argv("--overwrite")


def output_is_the_model(t: Bench) -> Argv:
    model = shutil.copy(t.files.model, t.folder / "m.keras")
    t.out.symlink_to(model)
    return t.argv("--overwrite", model=model)


OUTPUTS = [
    ("no-folder", lambda t: t.argv(out="no/where/m.tflite"), "The folder no/where .* does not exist. Create it"),
    ("folder-is-a-file", lambda t: t.argv(out=t.file("f") / "m.tflite"), "does not exist|is no folder"),
    ("unwritable-folder", unwritable_folder, "No permission to write into the folder .*out"),
    ("exists", existing, r"model\.tflite exists already. Use --overwrite"),
    ("is-a-folder", output_is_a_folder, r"model\.tflite is a folder. Expected the name of a file"),
    ("is-the-model", output_is_the_model, r"is the model itself. Give another output"),
    (
        "wrong-suffix",
        lambda t: t.argv(out="out/m.bin"),
        r"-o expects a name that ends in \.tflite. Received: 'out/m.bin'",
    ),
    ("full-disk", full_disk, r"No space left on device.*model\.tflite|model\.tflite.*No space left on device"),
    ("rename-refused", rename_refused, r"not permitted.*model\.tflite"),
    ("report-suffix", lambda t: t.argv("--report", "r.pdf"), r"--report expects .*\.html or \.json. Received: 'r.pdf'"),
    ("report-folder", lambda t: t.argv("--report", "no/r.html"), r"The folder no for r\.html does not exist"),
    ("report-taken", lambda t: t.argv("--report", t.file("r.html")), r"r\.html exists already. Use --overwrite"),
]


# Data ----------------------------------------------------------------------------------------------------------------

X = np.random.default_rng(2).random((16, 8, 8, 1), np.float32)
Y = np.arange(16) % 3


class Payload:
    """Unpickled, it writes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return io.FileIO, (self.path, "w")


def with_nan(t: Bench) -> pathlib.Path:
    x = X.copy()
    x[3, 2, 1, 0] = np.nan
    return t.arrays(x=x, y=Y)


def corrupt_npz(t: Bench) -> pathlib.Path:
    content = t.files.data.read_bytes()
    return t.file("data.npz", content[: len(content) // 2])


def unreadable_data(t: Bench) -> Argv:
    real = pathlib.Path.open

    def guarded(self, *args, **kwargs):
        if self.name == t.files.data.name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return real(self, *args, **kwargs)

    t.patch.setattr(pathlib.Path, "open", guarded)
    return t.int8(t.files.data)


def empty_folder(t: Bench) -> Argv:
    (t.folder / "images").mkdir()
    return t.int8(t.folder / "images")


def raising_function(t: Bench) -> Argv:
    t.file("bad_step.py", b"def halve(x):\n    raise KeyError('no such pixel')\n")
    return t.int8(t.files.data, "--preprocess", "bad_step:halve")


def missing_function(t: Bench) -> Argv:
    t.file("other_step.py", b"")
    return t.int8(t.files.data, "--preprocess", "other_step:halve")


DATA = [
    ("missing", lambda t: t.int8("no.npz"), r"--calibration: there is no file or folder no\.npz"),
    ("verify-missing", lambda t: t.argv("--verify", "no.npz"), r"--verify: there is no file or folder no\.npz"),
    ("none-for-int8", lambda t: t.argv("--precision", "int8"), "int8 needs calibration data.*--calibration DATA"),
    ("none-for-all", lambda t: t.argv("--all-precisions"), "--all-precisions needs calibration data"),
    ("unreadable", unreadable_data, "expected a readable file.*Check its permissions"),
    ("unknown-suffix", lambda t: t.int8(t.file("data.mat", JUNK)), r"unknown suffix '\.mat'. Expected one of \.npz"),
    ("web-page", lambda t: t.int8(t.file("data.npz", PAGE)), "received an HTML page"),
    ("empty-folder", empty_folder, "expected images .* or TFRecords in the folder, found none"),
    ("corrupt-npz", lambda t: t.int8(corrupt_npz(t)), "damaged or other file.*Save it again"),
    ("objects", lambda t: t.int8(t.array(np.array([Payload(t.payload)], object))), "dtype object.*unpickled"),
    ("objects-in-npz", lambda t: t.int8(t.arrays(x=np.array([Payload(t.payload)], object))), "dtype object.*unpickled"),
    ("strings", lambda t: t.int8(t.array(np.full((16, 8, 8, 1), "0.5"))), "array of numbers, received dtype <U3"),
    ("nan", lambda t: t.int8(with_nan(t)), "sample 3: expected finite values, received NaN. Clean the data"),
    ("verify-nan", lambda t: t.argv("--verify", with_nan(t)), r"sample 3 .*expected finite values, received NaN"),
    ("no-samples", lambda t: t.int8(t.arrays(x=X[:0], y=Y[:0])), "holds no samples. Expected at least one"),
    ("wrong-rank", lambda t: t.int8(t.array(X.reshape(16, 64))), r"expected shape \(8, 8, 1\), received \(64,\)"),
    ("wrong-channels", lambda t: t.int8(t.array(np.tile(X, 3))), "The channels differ: give images"),
    ("wrong-size", lambda t: t.int8(t.array(X[:, :6])), r"received \(6, 8, 1\).*--resize 8,8"),
    ("channels-first", lambda t: t.int8(t.array(np.tile(X, 3).transpose(0, 3, 1, 2))), r"expected shape \(8, 8, 1\)"),
    ("ambiguous-keys", lambda t: t.int8(t.arrays(a=X, b=X)), "expected the inputs 'image', received the keys 'a', 'b'"),
    ("scale-of-255", lambda t: t.int8(t.arrays(x=X * 255), model=t.files.normed), "scale.*'norm'.*--no-range-check"),
    ("scale-of-1", lambda t: t.int8(t.arrays(x=X), model=t.files.rescaled), "'rescale'.*pixels up to 255.*--scale 255"),
    ("labels-unknown", lambda t: t.int8(t.files.data, "--labels", "z"), "'z' is neither a key.*The keys are: 'x', 'y'"),
    ("labels-too-few", lambda t: t.int8(t.files.data, "--labels", t.array(Y)), "received 16 labels for 32 samples"),
    ("labels-of-npz", lambda t: t.int8(t.arrays(x=X, y=Y[:9])), "as many labels as samples.*'y' 9"),
    ("mean-for-3", lambda t: t.int8(t.files.data, "--mean", "1,2,3"), "expected one `mean`.*received 3"),
    (
        "resize-unlike",
        lambda t: t.int8(t.files.data, "--resize", "6,6"),
        r"expected shape \(8, 8, 1\), received \(6, 6",
    ),
    ("step-no-module", lambda t: t.int8(t.files.data, "--preprocess", "no_step:f"), "'no_step'.*Check the name"),
    ("step-no-function", missing_function, "the module 'other_step' .* has no 'halve'"),
    ("step-raises", raising_function, "'bad_step:halve' raised KeyError on sample 0.*no such pixel"),
]


# Options -------------------------------------------------------------------------------------------------------------


def leaving_module(t: Bench) -> Argv:
    """A script, not a module: imported, it ends the process, and with status 0."""
    t.file("a_script.py", b"import sys\nsys.exit(0)\n")
    return t.argv("--import", "a_script")


def fixed_batch(t: Bench) -> Argv:
    return t.argv("--batch-size", "2", model=t.saved(classifier(batch_size=4)))


def option(*options: str) -> Callable[[Bench], Argv]:
    return lambda t: t.argv(*options)


OPTIONS = [
    ("unknown", option("--fast"), "unrecognized arguments: --fast .*--help"),
    ("second-model", option("second.keras"), r"unrecognized arguments: second\.keras"),
    ("no-value", option("--precision"), "--precision: expected one argument"),
    ("precision", option("--precision", "int7"), "--precision: invalid choice: 'int7' .choose from .*int8"),
    ("calibrator", option("--calibrator", "best"), "--calibrator: invalid choice: 'best'.*minmax"),
    ("keep-float", option("--keep-float", "nope*"), r"'nope\*' matches no layer.*conv, gap, head"),
    ("layer-no-precision", option("--layer", "conv"), "--layer expects PATTERN=PRECISION. Received: 'conv'"),
    ("layer-no-pattern", option("--layer", "=int8"), "--layer expects PATTERN=PRECISION. Received: '=int8'"),
    ("layer-precision", option("--layer", "conv=int9"), "'conv'.*must be one of float32, .*Received: 'int9'"),
    ("layer-without-data", option("--layer", "conv=int8"), "needs calibration data"),
    ("layer-float16", option("--precision", "float16", "--keep-float", "conv"), "cannot be combined with .*'float16'"),
    ("batch-size-text", option("--batch-size", "abc"), "--batch-size expects a number or 'dynamic'. Received: 'abc'"),
    ("batch-size-0", option("--batch-size", "0"), "`batch_size` must be a positive integer.*Received: 0"),
    ("batch-size-fixed", fixed_batch, "inputs fix the batch size at 4"),
    ("input-shape", option("--input-shape", "4,4,1"), r"\(4, 4, 1\) for image \(8, 8, 1\).*does not fit"),
    ("input-shape-name", option("--input-shape", "img=8,8,1"), r"names the input 'img'. The model has \['image'\]"),
    ("input-shape-text", option("--input-shape", "8,b,1"), "--input-shape expects numbers .*Received: '8,b,1'"),
    ("input-shape-0", option("--input-shape", "0,8,1"), "must be positive integers"),
    ("resize-one", option("--resize", "1"), "--resize expects 2 numbers. Received: '1'"),
    ("resize-0", option("--resize", "0,0"), "`resize` must be two positive integers"),
    ("mean-text", option("--mean", "a,b"), "--mean expects numbers separated by commas. Received: 'a,b'"),
    ("std-0", option("--std", "0"), "`std` must be above 0"),
    ("scale-0", option("--scale", "0"), "`scale` must be a finite number other than 0"),
    ("percentile", option("--percentile", "10"), r"`percentile` must be in \(50, 100\]. Received: 10"),
    ("samples-0", option("--samples", "0"), "`samples` must be a positive integer. Received: 0"),
    ("samples-text", option("--samples", "many"), "--samples: invalid int value: 'many'"),
    ("demo-and-target", lambda t: ["--demo", "--target", "micro"], "--demo brings its own model"),
    ("timeout", option("--timeout", "-1"), "`timeout` must be a positive, finite number of seconds"),
    ("accuracy-nan", option("--min-accuracy", "nan"), "accuracy.* must be a number"),
    ("accuracy-in-percent", option("--min-accuracy", "83"), r"accuracy.*(0\.\.1|\[0, 1\])"),
    ("engine", option("--precision", "dynamic", "--engine", "tensorflow"), "writes float32, float16, int8, int16x8"),
    ("all-and-layers", lambda t: t.argv("--all-precisions", "--keep-float", "conv"), "Use --keep-float .* with one"),
    ("preprocess-colon", option("--preprocess", "module.f"), "must read 'module:function', with a colon"),
    ("import-missing", option("--import", "no_such_module"), "--import no_such_module failed: ModuleNotFoundError"),
    ("import-leaves", leaving_module, "--import a_script failed: SystemExit"),
]


CASES = {"model": MODELS, "output": OUTPUTS, "data": DATA, "option": OPTIONS}


@pytest.mark.parametrize(
    ("build", "says"), [pytest.param(b, says, id=f"{kind}-{i}") for kind in CASES for i, b, says in CASES[kind]]
)
@pytest.mark.sweep(60)
def test_bad_input(build: Callable[[Bench], Argv], says: str, bench, capsys):
    argv = build(bench)
    before = bench.snapshot()
    capsys.readouterr()
    with warnings.catch_warnings():
        # pytest takes warnings away; a user sees them on stderr.
        warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
        status = cli.main(argv)
    printed, said = capsys.readouterr()
    assert (status, printed) == (2, ""), said
    assert "Traceback" not in said
    assert len(said.splitlines()) == 1 and said.startswith("tfstruct-convert: "), said
    assert re.search(says, said), said
    assert not bench.payload.exists(), "code from the input has run"
    assert bench.snapshot() == before
    assert not list(bench.folder.rglob("*.part"))
