"""Every form of file that tfstruct reads: good ones, how they are changed, and what reads them as a user would."""

import contextlib
import dataclasses
import functools
import json
import pathlib
import random
import struct
from collections.abc import Callable
from typing import Any

import hostile_folders
import mutations
import numpy as np

RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 6)).astype("float32")
Y = RNG.integers(0, 3, 32)


@dataclasses.dataclass(frozen=True)
class Format:
    """A form of file.

    Attributes:
        make: writes good ones into a folder.
        change: the bytes of one, changed; for a folder, by the suffixes of its files.
        read: reads a changed one.
        use: what a user does with that; its errors need not name the file.
        count: of changes in the long run.
        quick: of changes in the default suite; those that need TensorFlow's converter or tf_keras have none.
        names: whether errors name the file; those of bytes and texts cannot.
    """

    make: Callable[[pathlib.Path], None]
    change: Callable[[bytes, random.Random], bytes] | dict[str, Callable]
    read: Callable[[pathlib.Path], object]
    count: int
    quick: int = 60
    names: bool = True
    use: Callable[[Any], object] = str


def changed(form: Format, seeds: list[pathlib.Path], number: int, place: pathlib.Path) -> pathlib.Path:
    """The file or folder of one number, beside nothing else."""
    rng = random.Random(number)
    seed = seeds[number % len(seeds)]
    target = place / seed.name
    if seed.is_file():
        assert callable(form.change)
        target.write_bytes(form.change(seed.read_bytes(), rng))
        return target
    assert isinstance(form.change, dict)
    files = sorted(one for one in seed.rglob("*") if one.is_file())
    changes = [one for one in files if one.suffix in form.change]
    chosen = rng.choice(changes)
    for one in files:
        copy = target / one.relative_to(seed)
        copy.parent.mkdir(parents=True, exist_ok=True)
        content = one.read_bytes()
        copy.write_bytes(form.change[one.suffix](content, rng) if one == chosen else content)
    return target


# Models


def _keras_models(package) -> dict:
    layers, regularizer = package.layers, package.regularizers.L2(1e-3)
    x = package.Input((6, 6, 2), name="pixels")
    y = layers.Conv2D(4, 3, padding="same", kernel_regularizer=regularizer, name="conv")(x)
    y = layers.ReLU(6.0, name="relu")(layers.BatchNormalization(name="norm")(y))
    y = layers.Dense(3, activation="softmax", name="head")(layers.GlobalAveragePooling2D(name="pool")(y))
    steps = package.Input((5, 3), name="steps")
    cell = layers.StackedRNNCells([layers.LSTMCell(3), layers.GRUCell(2)])
    z = layers.Bidirectional(layers.SimpleRNN(2, return_sequences=True), name="both")(steps)
    return {"pixels": package.Model(x, y, name="pixels"), "steps": package.Model(steps, layers.RNN(cell)(z))}


def _saved(package, suffix: str) -> Callable[[pathlib.Path], None]:
    def make(folder: pathlib.Path) -> None:
        import importlib

        for name, model in _keras_models(importlib.import_module(package)).items():
            model.save(folder / f"{name}{suffix}")

    return make


def _load(path: pathlib.Path) -> None:
    from tfstruct import legacy

    legacy.read(path).explain()


def _archive(content: bytes, rng: random.Random) -> bytes:
    members = {"config.json": mutations.json_of, "metadata.json": mutations.json_of, "model.weights.h5": _hdf5}
    return mutations.archive_of(content, rng, members)


def _hdf5(content: bytes, rng: random.Random) -> bytes:
    """Other bytes, or another description, attribute or dataset."""
    if rng.random() < 0.6:
        return mutations.bytes_of(content, rng)
    import io

    import h5py

    stream = io.BytesIO(content)
    with h5py.File(stream, "a") as file:
        if "model_config" in file.attrs and rng.random() < 0.7:
            text = file.attrs["model_config"]
            text = text if isinstance(text, bytes) else text.encode()
            file.attrs["model_config"] = np.bytes_(mutations.json_of(text, rng)[:60_000])
            return stream.getvalue()
        found: list = [file]
        file.visititems(lambda _, item: found.append(item))
        item = rng.choice(found)
        if rng.random() < 0.5 and len(item.attrs):
            item.attrs[rng.choice(list(item.attrs))] = rng.choice(
                (1, -1.5, "x", [b"a", b"b"], np.zeros((2, 2)), h5py.Empty("f4"), np.bytes_("../x"), [b"x"] * 500)
            )
        elif isinstance(item, h5py.Dataset):
            name, group = item.name, item.parent
            del group[name]
            shape = rng.choice(((), (0,), (1,), (2, 3), (5, 5, 5), (1 << 40,), (9,) * 12))
            huge = np.prod(shape) > 1 << 20
            with contextlib.suppress(ValueError, TypeError, OSError):
                kind = rng.choice(("f4", "f8", "i1", "S3", "u8", "c8", h5py.string_dtype()))
                group.create_dataset(name, shape, kind, chunks=(1 << 20,) if huge and len(shape) == 1 else None)
        elif item is not file:
            link = rng.choice((h5py.SoftLink("/"), h5py.ExternalLink(f"{mutations.CANARY}/secret", "/x")))
            name, group = item.name, item.parent
            del group[name]
            group[name] = link
    return stream.getvalue()


def _saved_models(folder: pathlib.Path) -> None:
    import keras
    import tf_keras

    _keras_models(tf_keras)["pixels"].save(folder / "layers", save_format="tf")
    _keras_models(keras)["pixels"].export(folder / "graph", verbose=False)


def _saved_model_message(content: bytes, rng: random.Random) -> bytes:
    from tensorflow.core.protobuf import saved_model_pb2
    from tf_keras.protobuf import saved_metadata_pb2

    # Which of the two it is shows in the first fields.
    probe = saved_metadata_pb2.SavedMetadata()
    with contextlib.suppress(Exception):
        probe.ParseFromString(content)
    kind = saved_metadata_pb2.SavedMetadata if any(n.metadata for n in probe.nodes) else saved_model_pb2.SavedModel
    return mutations.message_of(content, kind(), rng)


# Files of TensorFlow Lite


@functools.cache
def _tflite() -> bytes:
    import keras

    from tfstruct import Recipe
    from tfstruct.convert.metadata import Metadata, write_metadata
    from tfstruct.convert.tflite import to_tflite

    model = _keras_models(keras)["pixels"]
    recipe = Recipe(precision="int8", calibration=RNG.normal(size=(8, 6, 6, 2)).astype("float32"))
    content = to_tflite(model, recipe).content
    labels = {"labels": ["a", "b", "c"], "description": "what it is"}
    ours = Metadata("net", "a net", inputs={"pixels": {"description": "x"}}, outputs={"head": labels})
    return write_metadata(content, ours)


def _tflite_files(folder: pathlib.Path) -> None:
    (folder / "net.tflite").write_bytes(_tflite())


def _tflite_change(content: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.6:
        return mutations.bytes_of(content, rng)
    from tfstruct.convert import flatbuffer

    model = flatbuffer.read(content)
    mutations.table_of(model, rng)
    try:
        return flatbuffer.write(model)
    except Exception:  # what the builder refuses to write
        return mutations.bytes_of(content, rng)


def _inspect(path: pathlib.Path) -> None:
    from tfstruct.convert import check_target, describe
    from tfstruct.convert.packing.packed import pack

    str(describe(path))
    str(check_target(path, ["mobile", "edgetpu"]))
    str(pack(path).report)


def _metadata_change(content: bytes, rng: random.Random) -> bytes:
    """The note or the labels are others."""
    from tfstruct.convert import file_notes, flatbuffer

    if rng.random() < 0.3:
        at = len(content) - 400
        return content[:at] + mutations.bytes_of(content[at:], rng)
    model = flatbuffer.read(content)
    name = rng.choice([one.name.decode() for one in model.metadata])
    note = mutations.bytes_of(file_notes.read_note(content, name), rng)
    file_notes.write_note(model, name, note)
    return flatbuffer.write(model) + content[content.rfind(b"PK\x03\x04") :]


def _read_metadata(path: pathlib.Path) -> None:
    from tfstruct.convert import file_notes, read_metadata
    from tfstruct.convert.stream_states import plan_of

    about = read_metadata(path)
    if about is not None:
        about.rows(), about.labels
    content = path.read_bytes()
    file_notes.input_scales(content), plan_of(content)


# Packed models


def _packed_files(folder: pathlib.Path) -> None:
    import keras

    from tfstruct.convert.packing.packed import pack

    pack(_keras_models(keras)["pixels"]).save(folder / "keras.tfpack")
    pack(_tflite()).save(folder / "tflite.tfpack")


def _packed_change(content: bytes, rng: random.Random) -> bytes:
    """With the checksum of what it is then, or not."""
    from tfstruct.convert.packing import arrays, container

    what = rng.random()
    if what < 0.1:
        return mutations.bytes_of(content, rng)
    body = content[: -container._CHECKSUM]
    if what < 0.6:
        start = len(container._MAGIC) + 1
        body = body[:start] + mutations.bytes_of(body[start:], rng)
        return body + container._checksum(body)
    description, stream = container.read(content, "good")
    parts = list(stream)
    if what < 0.9:
        description = mutations.value_of(description, rng)
    elif parts:
        at = rng.randrange(len(parts))
        text = parts[at].tobytes()
        change = mutations.json_of if text[:1] == b"{" else mutations.bytes_of
        parts[at] = arrays.bit_patterns(change(text, rng))
    return container.write(description, [arrays.encode(part).content for part in parts])


def _unpack(path: pathlib.Path) -> None:
    from tfstruct import unpack

    unpack(path)


# Data


def _record_file(folder: pathlib.Path) -> None:
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(folder / "data.tfrecord")) as writer:
        for row, label in zip(X[:6], Y, strict=False):
            features = {
                "x": tf.train.Feature(float_list=tf.train.FloatList(value=row)),
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())


def _records(content: bytes, rng: random.Random) -> bytes:
    import tensorflow as tf

    return mutations.records_of(content, tf.train.Example(), _frame, rng)


def _frame(data: bytes) -> bytes:
    size = struct.pack("<Q", len(data))
    return b"".join([size, struct.pack("<I", _masked(size)), data, struct.pack("<I", _masked(data))])


@functools.cache
def _crc_table() -> list[int]:
    table = []
    for n in range(256):
        for _ in range(8):
            n = (n >> 1) ^ 0x82F63B78 if n & 1 else n >> 1
        table.append(n)
    return table


def _masked(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _crc_table()[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _csv_file(folder: pathlib.Path) -> None:
    rows = [",".join([*(f"x{i}" for i in range(6)), "label"])]
    rows += [",".join(map(str, [*row, label])) for row, label in zip(X[:6], Y, strict=False)]
    (folder / "data.csv").write_text("\n".join(rows))


def _picture_file(folder: pathlib.Path) -> None:
    import tensorflow as tf

    pixels = RNG.integers(0, 256, (6, 6, 3), np.uint8)
    (folder / "a.png").write_bytes(tf.io.encode_png(pixels).numpy())
    (folder / "b.jpg").write_bytes(tf.io.encode_jpeg(pixels).numpy())


def _data(name: str, shape: tuple[int, ...]) -> Callable[[pathlib.Path], None]:
    def read(path: pathlib.Path) -> None:
        from tfstruct.samples import TensorSpec, open_samples

        for _ in open_samples(str(path), (TensorSpec(name, shape, "float32"),)):
            pass

    return read


# Descriptions


def _network():
    import keras

    x = keras.Input((6,), name="x")
    return keras.Model(x, keras.layers.Dense(3, name="head")(keras.layers.Dense(8, "relu", name="hidden")(x)), name="m")


@functools.cache
def _graph():
    from tfstruct.graph import trace

    return trace(_network())


def _plan_file(folder: pathlib.Path) -> None:
    import tfstruct

    tfstruct.plan_channels(_graph().model, "macs=60%").save(folder / "plan.json")


def _read_plan(path: pathlib.Path):
    from tfstruct import Plan

    return Plan.load(path)


def _use_plan(plan) -> None:
    from tfstruct.surgery.pruning.plan import units_of

    str(plan), plan.removed, plan.edited, plan.to_json(), plan.to_html()
    units_of(_graph(), plan)


def _recipe_file(folder: pathlib.Path) -> None:
    from tfstruct import Recipe
    from tfstruct.samples import Preprocess

    steps = Preprocess(scale=1 / 255, mean=(0.5,), std=(0.2,), resize=(4, 4), function="canary_module:run")
    whole = Recipe(
        precision="int8", layers={"head": "float32"}, preprocess=steps, require={"sqnr_db": 20}, ranges={"x": (-1, 1)}
    )
    (folder / "recipe.json").write_text(whole.to_json())


def _read_recipe(path: pathlib.Path) -> None:
    from tfstruct import Recipe

    recipe = Recipe.from_json(path.read_text("utf-8", "replace"))
    str(recipe), repr(recipe)


def _scheme_file(folder: pathlib.Path) -> None:
    from tfstruct.quantize import Scheme

    scheme = Scheme("int8", layers={"hidden": "int4", "head*": "float32"})
    (folder / "scheme.json").write_text(scheme.to_json())


def _read_scheme(path: pathlib.Path) -> None:
    from tfstruct.quantize import Scheme

    scheme = Scheme.from_json(path.read_text("utf-8", "replace"))
    str(scheme), scheme.precision_of("hidden"), scheme.precision_of("head"), scheme.to_json()


def _latency_files(folder: pathlib.Path) -> None:
    row = {"operator": "FULLY_CONNECTED", "shapes": [[1, 6], [8, 6], [8], [1, 8]], "microseconds": 3.5, "dtype": "int8"}
    ours = {"schema": "tfstruct-latency-1", "processor": "m4", "rows": [row, {**row, "operator": "CONV_2D"}]}
    (folder / "ours.json").write_text(json.dumps(ours))
    theirs = {"latency": {"median_ms": 12.5, "mean_ms": 13.0}, "model": "net"}
    (folder / "theirs.json").write_text(json.dumps(theirs))


def _read_latency(path: pathlib.Path) -> None:
    from tfstruct.convert import LatencyTable

    table = LatencyTable.read(path, "m4")
    str(table), table.to_json()
    str(table.estimate(_tflite()))


def _boards_file(folder: pathlib.Path) -> None:
    text = '["cortex-m4:ours"]\nwhat = "ours"\nflash = "512 KB"\nram = 131072\naliases = ["ours"]\npsram = "8 MB"\n'
    (folder / "boards.toml").write_text(f'{text}\n["cortex-m7:other"]\nflash = 1\nram = "1 MB"\n')


def _read_boards(path: pathlib.Path) -> None:
    from tfstruct.convert.devices import boards

    before = dict(boards._BOARDS)
    try:
        for board in boards.add_boards(path):
            boards.memory(board, b"x" * 1000, (10_000, 5_000)), str(board)
    finally:
        boards._BOARDS.clear()
        boards._BOARDS.update(before)


def _options_file(folder: pathlib.Path) -> None:
    text = 'output = "x.tflite"\nprecision = "int8"\nscale = "1/255"\nkeep-float = ["head*"]\nper-layer = true\n'
    (folder / "job.toml").write_text(f"[convert]\n{text}batch-size = 2\n[compress]\nepochs = 3\n")


def _read_options(path: pathlib.Path) -> None:
    from tfstruct.cli import commands, configuration

    one = commands.parser().command("convert")
    configuration.set_defaults(one, configuration.read(str(path), "convert"), str(path))
    one.parse_args(["net.keras"])


FORMATS = {
    "keras": Format(_saved("keras", ".keras"), _archive, _load, 2_000),
    "keras2-h5": Format(_saved("tf_keras", ".h5"), _hdf5, _load, 2_000, 0),
    "keras2-archive": Format(_saved("tf_keras", ".keras"), _archive, _load, 1_500, 0),
    "savedmodel": Format(
        _saved_models, {".pb": _saved_model_message, ".index": mutations.bytes_of}, _load, 500, 0
    ),
    "tflite": Format(_tflite_files, _tflite_change, _inspect, 6_000, 0, names=False),
    "tflite-metadata": Format(_tflite_files, _metadata_change, _read_metadata, 6_000, 0, names=False),
    "tfpack": Format(_packed_files, _packed_change, _unpack, 6_000, 0),
    "npy": Format(lambda f: np.save(f / "data.npy", X[:6]), mutations.npy_of, _data("x", (6,)), 6_000),
    "npz": Format(
        lambda f: np.savez(f / "data.npz", x=X[:6], label=Y[:6]),
        lambda c, r: mutations.archive_of(c, r, {"x.npy": mutations.npy_of, "label.npy": mutations.npy_of}),
        _data("x", (6,)), 6_000,
    ),
    "csv": Format(_csv_file, mutations.csv_of, _data("x", (6,)), 6_000),
    "tfrecord": Format(_record_file, _records, _data("x", (6,)), 4_000),
    "images": Format(_picture_file, mutations.bytes_of, _data("pixels", (6, 6, 3)), 3_000),
    "plan": Format(_plan_file, mutations.json_of, _read_plan, 10_000, use=_use_plan),
    "recipe": Format(_recipe_file, mutations.json_of, _read_recipe, 15_000, names=False),
    "scheme": Format(_scheme_file, mutations.json_of, _read_scheme, 15_000, names=False),
    "latency": Format(_latency_files, mutations.json_of, _read_latency, 10_000, 0),
    "boards": Format(_boards_file, mutations.toml_of, _read_boards, 13_000),
    "options": Format(_options_file, mutations.toml_of, _read_options, 8_000),
    "workdir": Format(
        hostile_folders.make,
        {".json": mutations.json_of, ".keras": _archive, ".h5": _hdf5, ".tflite": mutations.bytes_of,
         ".db": hostile_folders.database_of},
        hostile_folders.read, 500, 0, use=hostile_folders.use,
    ),
}  # fmt: skip
