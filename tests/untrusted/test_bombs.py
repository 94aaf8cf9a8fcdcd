"""Files that become far more than they are, or reach into others: refused before they are unpacked."""

import io
import json
import os
import tracemalloc
import zipfile

import h5py
import keras
import numpy as np
import pytest

from tfstruct import legacy, pack, unpack
from tfstruct.convert.packing import arrays, container
from tfstruct.errors import ModelError
from tfstruct.untrusted import json_text


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    model = keras.Sequential([keras.Input((3,), name="x"), keras.layers.Dense(2, name="head")], name="m")
    for suffix in (".keras", ".h5"):
        model.save(folder / f"good{suffix}")
    return folder


def changed(path, target, **members):
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in source.namelist():
            archive.writestr(name, members.get(name, source.read(name)))
    return target


def refused_cheaply(match, call) -> None:
    """Refused by a ModelError, and with less than 100 MB."""
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match=match):
            call()
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


TEXTS = {
    "lists": b'{"class_name": "Sequential", "k": [' + b"[]," * 1_000_000 + b"[]]}",
    "text": b'{"class_name": "' + b" " * json_text.LARGEST + b'"}',
    "deep": b'{"class_name": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
}


@pytest.mark.parametrize("member", ["config.json", "metadata.json"])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_large_descriptions(folder, tmp_path, text, member):
    path = changed(folder / "good.keras", tmp_path / "bomb.keras", **{member: text})
    assert path.stat().st_size < 1 << 20
    refused_cheaply(r"bomb\.keras holds .* Refused", lambda: legacy.load(path))


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.sweep(1)
def test_large_descriptions_of_packed_models(text):
    body = b"".join([container._MAGIC, bytes([1]), arrays.encode(arrays.bit_patterns(text)).content])
    content = body + container._checksum(body)
    assert len(content) < 100_000
    refused_cheaply("The container is no packed model", lambda: unpack(content))


def test_millions_of_empty_arrays():
    text = arrays.encode(arrays.bit_patterns(b'{"kind": "tflite"}')).content
    empty = arrays.encode(np.zeros(0, np.uint8)).content
    body = b"".join([container._MAGIC, bytes([1]), text, empty * 5_000_000])
    refused_cheaply("more than 100,000 arrays", lambda: unpack(body + container._checksum(body)))


def test_a_packed_model_names_only_what_computes(folder):
    model = keras.models.load_model(folder / "good.keras")
    packed = pack(model)
    np.testing.assert_array_equal(unpack(packed).get_weights()[0], model.get_weights()[0])
    evil = keras.Sequential([keras.Input((3,)), keras.layers.Lambda(lambda x: x, name="bad")], name="evil")
    with pytest.raises(ModelError, match=r"holds the Lambda layer 'bad'.*trust=True"):
        unpack(pack(evil))
    words = keras.Sequential([keras.Input((1,), dtype="string"), keras.layers.StringLookup(vocabulary=["a"])])
    content = pack(words)
    description, stream = container.read(content.content, "x")
    parts = list(stream)
    index = next(i for i, part in enumerate(parts) if b'"vocabulary"' in part.tobytes())
    config = json.loads(parts[index].tobytes())
    config["config"]["layers"][1]["config"]["vocabulary"] = "/etc/passwd"
    parts[index] = arrays.bit_patterns(json.dumps(config).encode())
    with pytest.raises(ModelError, match="reads the file '/etc/passwd'"):
        unpack(container.write(description, [arrays.encode(part).content for part in parts]))


def _external_link(file, secret):
    del file["stolen"]
    file["stolen"] = h5py.ExternalLink(secret, "/values")


def _soft_link(file, secret):
    del file["stolen"]
    file["stolen"] = h5py.SoftLink("/")


def _external_storage(file, secret):
    del file["stolen"]
    file.create_dataset("stolen", (4,), "u1", external=[(secret, 0, 4)])


def _virtual(file, secret):
    del file["stolen"]
    layout = h5py.VirtualLayout((4,), "u1")
    layout[:] = h5py.VirtualSource(secret, "values", (4,))
    file.create_virtual_dataset("stolen", layout)


def _never_written(file, secret):
    del file["stolen"]
    file.create_dataset("stolen", (1 << 40,), "u1", chunks=(1 << 20,))


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("change", [_external_link, _soft_link, _external_storage, _virtual, _never_written])
def test_weights_lie_in_the_file_itself(folder, tmp_path, change, suffix):
    secret = str(tmp_path / "secret.h5")
    with h5py.File(secret, "w") as file:
        file["values"] = np.arange(4, dtype=np.uint8)
    source = folder / f"good{suffix}"
    if suffix == ".h5":
        content = source.read_bytes()
    else:
        with zipfile.ZipFile(source) as archive:
            content = archive.read("model.weights.h5")
    inner = tmp_path / "inner.h5"
    inner.write_bytes(content)
    with h5py.File(inner, "a") as file:
        file["stolen"] = 0
        change(file, secret)
    path = inner
    if suffix == ".keras":
        path = changed(source, tmp_path / "evil.keras", **{"model.weights.h5": inner.read_bytes()})
    with pytest.raises(ModelError, match=rf"{os.path.basename(path)} .*/stolen"):
        legacy.load(path)


def test_a_member_that_unpacks_to_a_gigabyte(folder, tmp_path):
    path = tmp_path / "bomb.keras"
    changed(folder / "good.keras", path)
    block = bytes(1 << 20)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("assets/x", "w") as member:
        for _ in range(512):
            member.write(block)
    refused_cheaply("would unpack from", lambda: legacy.load(path))


def test_bytes_are_read_as_paths_are(folder):
    from tfstruct.untrusted import keras_archive

    path = folder / "good.keras"
    assert keras_archive.description(path.read_bytes(), "x") == keras_archive.description(path, "x")
    with pytest.raises(ModelError, match="x is damaged"):
        keras_archive.description(io.BytesIO(b"").getvalue(), "x")
