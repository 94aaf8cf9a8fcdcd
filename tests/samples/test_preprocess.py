"""Images are resized and scaled, and the user's function is called, as Preprocess says."""

import json
import sys

import numpy as np
import pytest
import tensorflow as tf
from sample_cases import GREY, IMAGE, PAIR, PIXELS, ROW, ROWS, A, B, refuse, values

from tfstruct.errors import DataError
from tfstruct.samples import Preprocess, TensorSpec, open_samples


def test_scale_mean_std():
    source = np.arange(60, dtype=np.uint8).reshape(1, 4, 5, 3)
    steps = Preprocess(scale=1 / 255, mean=(0.1, 0.2, 0.3), std=0.5)
    want = (source.astype(np.float32) * np.float32(1 / 255) - np.float32([0.1, 0.2, 0.3])) / np.float32(0.5)
    got = values(open_samples(source, [IMAGE], preprocess=steps))
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, want)
    refuse("expected one `mean`.*received 2", source, [IMAGE], preprocess=Preprocess(mean=(1, 2)))
    whole = [TensorSpec("x", (4, 5, 3), "uint8")]
    refuse("whole numbers.*leave out `scale`", source, whole, preprocess=Preprocess(scale=1 / 255))


def test_only_images_of_several_inputs_are_transformed():
    inputs = (GREY, PAIR[0])
    source = {"grey_in": np.ones((3, 4, 4)), "a": A}
    got = open_samples(source, inputs, preprocess=Preprocess(scale=3)).take(1)[0].inputs
    assert (got["grey_in"] == 3).all()
    np.testing.assert_array_equal(got["a"], A[0])
    refuse("none of the model's several inputs is one", [A, B], PAIR, preprocess=Preprocess(scale=3))


def test_resize(tmp_path):
    (tmp_path / "a.png").write_bytes(tf.io.encode_png(PIXELS).numpy())
    spec = TensorSpec("x", (6, 8, 3), "float32")
    want = tf.image.resize(PIXELS, (6, 8)).numpy()
    steps = Preprocess(resize=(6, 8))
    np.testing.assert_array_equal(values(open_samples(tmp_path, [spec], preprocess=steps))[0], want)
    batch = open_samples([np.stack([PIXELS, PIXELS])], [spec], preprocess=steps)
    np.testing.assert_array_equal(values(batch), np.stack([want, want]))
    whole = open_samples(tmp_path, [TensorSpec("x", (6, 8, 3), "uint8")], preprocess=steps)
    np.testing.assert_array_equal(values(whole)[0], np.rint(want))
    flat = open_samples([PIXELS[..., 0]], [TensorSpec("x", (6, 8), "float32")], preprocess=steps)
    np.testing.assert_allclose(values(flat)[0], want[..., 0], rtol=1e-6)
    refuse(r"expected shape \(6, 8, 3\), received \(4, 5, 3\).*--resize 6,8", tmp_path, [spec])
    refuse(r"`resize` expects images", ROWS, [ROW], preprocess=steps)
    refuse(r"--resize 6,8", tmp_path, [spec], preprocess=Preprocess(resize=(7, 7)))


@pytest.mark.parametrize(
    "options",
    [
        {"resize": (4,)},
        {"resize": (4, 0)},
        {"resize": 4},
        {"scale": 0},
        {"scale": float("nan")},
        {"scale": "2"},
        {"mean": ()},
        {"mean": ("a",)},
        {"std": (1, 0)},
        {"std": float("inf")},
        {"function": "no_colon"},
        {"function": "a b:c"},
        {"function": 3},
    ],
)
def test_preprocess_is_validated(options):
    with pytest.raises(DataError, match=f"`{next(iter(options))}` must .*Received"):
        Preprocess(**options)


def test_preprocess_takes_what_json_has():
    steps = Preprocess(**json.loads('{"resize": [4, 5], "mean": 1, "std": [1, 2, 3]}'))
    assert (steps.resize, steps.mean, steps.std) == ((4, 5), (1,), (1, 2, 3))
    assert hash(steps) == hash(Preprocess(resize=(4, 5), mean=(1,), std=(1, 2, 3)))


FUNCTIONS = """
def double(x):
    x *= 2
    return x
def swap(d): return {"a": d["a"][::-1], "b": d["b"] + 1}
def nothing(x): pass
def fail(x): raise KeyError("lost")
def short(x): return x[:2]
def half(d): return {"a": d["a"]}
def text(x): return "text"
value = 3
"""


@pytest.fixture
def functions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])  # "" is the working directory already
    (tmp_path / "own_functions.py").write_text(FUNCTIONS)
    (tmp_path / "own_broken.py").write_text("import sys\nsys.exit(2)\n")
    yield lambda name: Preprocess(function=f"own_functions:{name}")
    sys.modules.pop("own_functions", None)


def test_function(functions):
    path, source = list(sys.path), ROWS.copy()
    samples = open_samples(source, [ROW], preprocess=functions("double"))
    assert "own_functions" not in sys.modules  # only on use
    np.testing.assert_array_equal(values(samples), ROWS * 2)
    np.testing.assert_array_equal(source, ROWS)
    assert sys.path == path
    got = open_samples([A, B], PAIR, preprocess=functions("swap")).take(1)[0].inputs
    assert got["a"].tolist() == [1, 0] and got["b"] == 8


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("gone", "has no 'gone'"),
        ("gone.further", "has no 'gone.further'"),
        ("value", "expected a function, received int"),
        ("nothing", "must return an array; it returned NoneType on sample 0"),
        ("fail", "raised KeyError on sample 0: 'lost'"),
        ("short", r"sample 0, after 'own_functions:short': expected shape \(3,\), received \(2,\)"),
        ("text", "expected numbers, received dtype <U4"),
    ],
)
def test_function_errors(functions, name, match):
    refuse(match, ROWS, preprocess=functions(name))


def test_function_import_errors(functions):
    refuse("'gone:f': expected a module 'gone'", ROWS, preprocess=Preprocess(function="gone:f"))
    refuse(r"'sys' \(built in\) has no 'gone'", ROWS, preprocess=Preprocess(function="sys:gone"))
    refuse("received SystemExit", ROWS, preprocess=Preprocess(function="own_broken:f"))
    refuse(r"must return a dict with the keys \['a', 'b'\]", [A, B], PAIR, preprocess=functions("half"))
    with pytest.raises(DataError) as caught:
        open_samples(ROWS, [ROW], preprocess=functions("fail")).take(1)
    assert isinstance(caught.value.__cause__, KeyError)
