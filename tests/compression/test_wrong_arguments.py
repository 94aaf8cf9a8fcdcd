"""Arguments that `compress` cannot take end in an error of tfstruct, which says what is expected, before it trains."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfstruct
from tfstruct.compression import task
from tfstruct.compression.folder import WorkingFolder
from tfstruct.compression.objective import objective
from tfstruct.errors import ArgumentError, ArgumentTypeError, BudgetError, ConversionError, DataError, RecipeError
from tfstruct.graph import trace

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(32, 6)).astype("float32"), RNG.integers(0, 3, 32)
WRONG = {
    "epochs below 0": ({"epochs": -1}, RecipeError, "`epochs` must be a whole number"),
    "epochs in words": ({"epochs": "2"}, RecipeError, "`epochs` must be a whole number"),
    "no batch": ({"batch_size": 0}, RecipeError, "`batch_size` must be"),
    "half a sample": ({"batch_size": 2.5}, RecipeError, "`batch_size` must be"),
    "a rate in words": ({"learning_rate": "fast"}, RecipeError, "`learning_rate` must be a finite number above 0"),
    "no rate": ({"learning_rate": float("nan")}, RecipeError, "`learning_rate` must be a finite number above 0"),
    "any rate": ({"learning_rate": float("inf")}, RecipeError, "`learning_rate` must be a finite number above 0"),
    "a rate that is true": ({"learning_rate": True}, RecipeError, "`learning_rate` must be a finite number above 0"),
    "a temperature in words": ({"temperature": "hot"}, RecipeError, "`temperature` must be a finite number above 0"),
    "too much of the teacher": ({"distillation": 2}, RecipeError, "`distillation` must be a number in"),
    "the teacher in words": ({"distillation": "all"}, RecipeError, "`distillation` must be a number in"),
    "a seed in words": ({"seed": "a"}, RecipeError, "`seed` must be a whole number"),
    "no such device": ({"target": "moon"}, RecipeError, "moon"),
    "a device's number": ({"target": 3}, RecipeError, "`target` must be one of"),
    "no such strategy": ({"strategy": "best"}, RecipeError, "'auto', 'search', or a list"),
    "a strategy's number": ({"strategy": 3}, RecipeError, "'auto', 'search', or a list"),
    "a step's number": ({"strategy": [3]}, RecipeError, "A step must be a Step, the name of one, or a dict"),
    "no steps": ({"strategy": []}, RecipeError, "at least one step"),
    "no such loss": ({"loss": "nope"}, ArgumentError, "`loss` must be a name that Keras knows"),
    "a loss's number": ({"loss": 3}, ArgumentError, "`loss` must be a name that Keras knows"),
    "a metric's number": ({"metric": 3}, ArgumentError, "`metric` must be"),
    "no pipeline": ({"augment": 3}, ArgumentTypeError, "`augment` must be"),
    "nobody to tell": ({"progress": 3}, ArgumentTypeError, "`progress` must be"),
    "a budget's number": ({"budget": 3}, BudgetError, "A budget is a dict"),
    "no data": ({"train": None}, DataError, "Expected data"),
    "no samples": ({"train": (X[:0], Y[:0])}, DataError, "no samples"),
    "narrow samples": ({"train": (X[:, :3], Y)}, DataError, r"expected shape \(6,\), received \(3,\)"),
    "fewer labels": ({"train": (X, Y[:10])}, DataError, "as many labels as samples"),
    "labels beyond the classes": ({"train": (X, Y + 5)}, DataError, r"in \[0, 3\).*Received 5..7"),
    "labels below the classes": ({"train": (X, Y - 1)}, DataError, r"in \[0, 3\).*Received -1..1"),
    "such labels to choose by": ({"validation": (X, Y + 5)}, DataError, r"in \[0, 3\)"),
    "such labels to judge by": ({"test": (X, Y + 5)}, DataError, r"in \[0, 3\)"),
    "none to judge by": ({"test": X}, DataError, "expected labels in the test data"),
    "labels that are no numbers": ({"train": (X, np.full(32, np.nan))}, DataError, "Labels must be finite"),
    "wide labels": ({"train": (X, np.zeros((32, 7)))}, DataError, r"shape \(7,\) do not fit.*\(3,\)"),
    "one value for three": ({"train": (X, np.zeros(32))}, DataError, r"shape \(\) do not fit.*\(3,\)"),
}


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    x = keras.Input((6,))
    return keras.Model(x, keras.layers.Dense(3, activation="softmax")(keras.layers.Dense(8, activation="relu")(x)))


@pytest.mark.parametrize(("wrong", "kind", "said"), WRONG.values(), ids=WRONG)
def test_an_error_says_what_is_expected(wrong, kind, said, model):
    asked = {"train": (X, Y), "validation": (X, Y), "budget": "macs=60%", "epochs": 1, **wrong}
    with pytest.raises(kind, match=said):
        tfstruct.compress(model, **asked)


@pytest.mark.parametrize("place", ["", "inner"])
def test_a_file_is_no_working_folder(place, model, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(RecipeError, match="`workdir` must be a folder"):
        tfstruct.compress(model, (X, Y), (X, Y), "macs=60%", workdir=file / place if place else file)
    assert file.read_text() == "mine"


def test_a_loss_may_leave_labels_out(model):
    """A class to ignore is beyond the classes on purpose."""
    labels = np.where(np.arange(32) % 5, Y, -1)
    graph = trace(model)
    ignoring = objective(graph, labels, keras.losses.SparseCategoricalCrossentropy(ignore_class=-1))
    ignoring.require_classes(labels, "data")
    assert ignoring.classes == (None,)
    for loss in (None, "sparse_categorical_crossentropy", keras.losses.sparse_categorical_crossentropy):
        with pytest.raises(DataError, match=r"data: labels must be in \[0, 3\)"):
            objective(graph, labels, loss).require_classes(labels, "data")


def test_two_runs_in_one_folder(tmp_path):
    described = {"model": "a"}
    first = WorkingFolder.open(tmp_path, described)
    (tmp_path / "model.part.keras").write_bytes(b"of a killed run")
    with pytest.raises(RecipeError, match="Another run works in"):
        WorkingFolder.open(tmp_path, described)
    WorkingFolder.open(tmp_path, described, alone=False).close()  # a worker of the first
    first.close()
    WorkingFolder.open(tmp_path, described).close()
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_files_of_others_are_not_touched(tmp_path):
    (tmp_path / "mine.part").write_text("mine")
    with pytest.raises(RecipeError, match="holds other files"):
        WorkingFolder.open(tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["mine.part"]


def test_a_process_in_which_training_would_never_end(monkeypatch, model):
    monkeypatch.setattr(task, "lacks_threads", lambda: True)
    with pytest.raises(ConversionError, match=r"forked from one in which TensorFlow had started.*spawn"):
        tfstruct.compress(model, (X, Y), (X, Y), "macs=60%", epochs=0)


def test_in_the_scope_of_a_strategy(model):
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope(), pytest.raises(ArgumentError, match="Leave the scope first"):
        tfstruct.compress(model, (X, Y), (X, Y), "macs=60%", epochs=0)
