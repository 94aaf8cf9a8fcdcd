"""Names of inputs, outputs, layers, classes and files that say more than a name: harmless in all that is written.

The tables of every report are tried in `tests/reporting/test_reports.py`; here is what is written besides: C and C++,
code in Markdown, model cards, archives of labels, folders, and messages of errors.
"""

import ast
import dataclasses
import io
import json
import pathlib
import re
import shutil
import subprocess
import zipfile

import pytest
import zoo

from tfstruct import Recipe, convert
from tfstruct.convert import flatbuffer, micro
from tfstruct.convert.tflite import Converter
from tfstruct.convert.usage import usage
from tfstruct.errors import TfstructError
from tfstruct.markup import visible

NAMES = {
    "html": "<script>alert(1)</script><img src=x onerror=y>",
    "markdown": "a|b`[x](javascript:y)![z](http://w)*_# ```",
    "control": "a\x1b[31mb\x07\u202e\u2028",
    "lines": 'a\n#include "/etc/passwd"\r\n"""; import os',
    "comment": 'a */ #error "ran" /* \\',
    "trigraph": "a ??/",
    "code": '"; system("ran"); // \\',
    "format": "{0.__class__} %s%n $(ran) `ran`",
    "up": "../../../escape",
    "absolute": "/escape",
    "drive": "C:\\escape",
    "dots": "..",
    "empty": "",
}


@pytest.fixture(scope="module")
def file(process):
    with Converter(zoo.build("residual"), process=process) as converter:
        return converter.convert(Recipe(precision="float32"))


@pytest.fixture(params=NAMES.values(), ids=NAMES)
def name(request):
    return request.param


@pytest.fixture
def content(file, name):
    """The file, with this name for its inputs, outputs and every tensor."""
    model = flatbuffer.read(file.content)
    for number, tensor in enumerate(model.subgraphs[0].tensors):
        tensor.name = (name if number < 3 else f"{name}{number}").encode()
    for port in (*model.signatureDefs[0].inputs, *model.signatureDefs[0].outputs):
        port.name = name.encode()
    return flatbuffer.write(model)


def compiled(source: pathlib.Path) -> str:
    """What a compiler says of a source file; nothing where there is none."""
    compiler = shutil.which("g++")
    if compiler is None:
        return ""
    command = [compiler, "-std=c++17", "-Wall", "-Wno-unused-variable", "-fsyntax-only", str(source)]
    return subprocess.run(command, capture_output=True, text=True).stderr


def test_c_arrays_compile(content, tmp_path):
    for path in micro.write_c_array(content, tmp_path / "net.cc"):
        if path.endswith(".cc"):
            assert compiled(pathlib.Path(path)) == ""


def test_c_arrays_are_called_after_any_file(name):
    assert re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", micro.identifier(name))


def test_test_vectors_compile_and_stay_in_their_folder(content, tmp_path):
    folder = tmp_path / "inner" / "vectors"
    folder.parent.mkdir()
    written = convert.test_vectors(content, count=1).save(folder)
    assert all(path.resolve().is_relative_to(folder.resolve()) for path in written)
    assert [path.name for path in tmp_path.iterdir()] == ["inner"]
    header = next(path for path in written if path.name == "vectors.h")
    assert compiled(header).replace("#pragma once in main file", "") == "" or "warning" in compiled(header)


def test_how_to_use_it_is_code_without_the_name(content):
    text = usage(*convert.ports.ports_of(content))
    script = text.rpartition("```python\n")[2].removesuffix("```")
    ast.parse(script)
    assert "ran" not in script and "escape" not in script
    table = text.partition("```python")[0]
    assert (
        "<script" not in table
        and "](" not in re.sub(r"\\.", "", table)
        and visible(table).replace("\\n", "\n") == table
    )


def test_what_is_inside_of_it_is_shown(content, tmp_path):
    found = convert.describe(content)
    for line in str(found).splitlines():
        assert visible(line) == line
    page, card = found.to_html(), found.to_markdown()
    assert "<script" not in page + card and "<img" not in page + card
    json.loads(found.to_json())


def test_labels_lie_in_an_archive_by_plain_names(content, name):
    width = convert.ports.ports_of(content)[1][0].shape[-1]
    one_line = name.replace("\n", " ").replace("\r", " ").replace("\x00", " ")
    labels = tuple(f"{one_line}{i}" for i in range(width))
    about = convert.Metadata(one_line, outputs={name: convert.PortMetadata(labels=labels)})
    made = convert.write_metadata(content, about)
    with zipfile.ZipFile(io.BytesIO(made[made.rfind(b"PK\x03\x04") :])) as archive:
        assert all(re.fullmatch(r"[\w.-]*_labels\.txt", entry) for entry in archive.namelist())
    again = convert.read_metadata(made)
    assert again.outputs[name].labels == labels


def test_a_model_card(file, content, name):
    report = dataclasses.replace(file.report, model=name, inputs=convert.ports.ports_of(content)[0])
    card = report.model_card()
    assert "<script" not in card and "<img" not in card and all(visible(line) == line for line in card.split("\n"))


def test_errors_show_what_cannot_be_seen(name):
    said = str(TfstructError(f"The layer {name} is none."))
    assert all(visible(line) == line for line in said.split("\n"))
