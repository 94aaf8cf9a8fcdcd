"""Every function that takes data reads every form of it by the rules of `tfstruct.samples`, and with equal results."""

import ast
import itertools
import pathlib
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tfstruct import analyze, callbacks, distill, initializers, quantize, surgery
from tfstruct.compression.dataset import open_data
from tfstruct.errors import DataError
from tfstruct.layers import MonteCarloDropout, predict_distribution
from tfstruct.samples.for_model import samples_of
from tfstruct.samples.ports import Ports
from tfstruct.schedules import PolynomialRatio

COUNT = 24
rng = np.random.default_rng(0)
X = rng.normal(size=(COUNT, 6)).astype("float32")
Y = np.arange(COUNT) % 3
W = np.linspace(0.5, 1.5, COUNT).astype("float32")


class Pairs(keras.utils.PyDataset):
    def __len__(self):
        return 5

    def __getitem__(self, index):
        rows = slice(5 * index, 5 * index + 5)
        return X[rows], Y[rows]


def dataset(*parts):
    return tf.data.Dataset.from_tensor_slices(parts)


def npz(folder):
    np.savez(folder / "data.npz", x=X, y=Y)
    return folder / "data.npz"


def csv(folder):
    lines = [",".join(map(str, [*x.tolist(), y])) for x, y in zip(X, Y, strict=True)]
    (folder / "data.csv").write_text("\n".join(["a,b,c,d,e,f,label", *lines]))
    return str(folder / "data.csv")


FORMS = {
    "pair": lambda folder: (X, Y),
    "lists of numbers": lambda folder: (X.tolist(), Y.tolist()),
    "weights": lambda folder: (X, Y, W),
    "list of the one input": lambda folder: ([X], Y),
    "dict and labels": lambda folder: ({"input": X}, Y),
    "dict with labels": lambda folder: {"input": X, "labels": Y},
    "list of samples": lambda folder: list(zip(X, Y, strict=True)),
    "list of batches": lambda folder: [(X[:7], Y[:7]), (X[7:], Y[7:])],
    "dataset": lambda folder: dataset(X, Y),
    "dataset of batches": lambda folder: dataset(X, Y, W).batch(7),
    "dataset of dicts": lambda folder: tf.data.Dataset.from_tensor_slices({"input": X, "label": Y}).batch(7),
    "PyDataset": lambda folder: Pairs(),
    "generator": lambda folder: zip(X, Y, strict=True),
    "generator of batches": lambda folder: ((X[i : i + 7], Y[i : i + 7]) for i in range(0, COUNT, 7)),
    "function": lambda folder: lambda: zip(X, Y, strict=True),
    ".npz": npz,
    ".csv": csv,
}
WEIGHTED = ("weights", "dataset of batches")
SOME = ("generator", "dataset of batches")  # one single and once only, one in batches; the others are `slow`


def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((6,), name="input")
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Dense(8, activation="relu", name="a")(x)
    x = layers.Dense(6, activation="relu", name="b")(x)
    x = layers.Add(name="one")([x, layers.Dense(6, name="c")(x)])
    x = layers.Add(name="two")([x, layers.Dense(6, name="d")(x)])
    x = MonteCarloDropout(1e-7, name="drop")(x)
    model = keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x), name="net")
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


def recalibrated(model, data):
    surgery.recalibrate_batch_norm(model, data)
    return [model.get_layer("norm").moving_mean.numpy(), model.get_layer("norm").moving_variance.numpy()]


def pruned(model, data, kind, criterion):
    schedule = PolynomialRatio(0.0, 0.5, begin=0, end=1)
    settings = {"criterion": criterion, "data": data}
    made = kind(0.8, schedule, **settings) if kind is callbacks.PruneChannels else kind(schedule, **settings)
    made.attach(model)
    made.step(0)
    callbacks.release(model)
    return model.get_weights()


def diagnosed(model, data):
    made = callbacks.Diagnose(data, samples=COUNT, verbose=0)
    made.attach(model)
    return [made.finish().probes[0].loss]


def cached(model, data, folder):
    data = distill.cached(model, data, folder / "rows", batch_size=7)
    return [np.concatenate([taught.outputs for _, taught, *_ in data])]


def opened(model, data):
    found = open_data(data, Ports(model)).take(COUNT)
    return [found.x, found.labels]


def figures(details: dict) -> list:
    return [x for x in keras.tree.flatten(details) if isinstance(x, float)]


def importance(criterion):
    return lambda m, data, folder: list(analyze.importance(m, criterion, data, missing="keep").groups.values())


READERS = {
    "importance activation": importance("activation"),
    "importance gradient": importance("gradient"),
    "importance hessian": importance("hessian"),
    "sensitivity": lambda m, d, _: list(analyze.sensitivity(m, d, ratios=(0.5,), progress=False).groups.values()),
    "choose_threshold": lambda m, d, _: [analyze.choose_threshold(m, d, folds=2, thresholds=2).mean],
    "gradient_noise_scale": lambda m, d, _: [analyze.gradient_noise_scale(m, d, batch_size=3, groups=4).scale],
    "plan_channels": lambda m, d, _: [
        keep for keep in surgery.plan_channels(m, {"params": 0.8}, criterion="activation", data=d).keep.values()
    ],
    "recalibrate_batch_norm": lambda m, d, _: recalibrated(m, d),
    "drop_blocks": lambda m, d, _: figures(surgery.drop_blocks(m, d, count=1).details),
    "drop_blocks loss": lambda m, d, _: figures(surgery.drop_blocks(m, d, count=1, criterion="loss").details),
    "suggest_sharing": lambda m, d, _: [surgery.suggest_sharing(m, d).pairs[0][2]],
    "analyze_bottlenecks": lambda m, d, _: [
        [row["effective_rank"] for row in surgery.analyze_bottlenecks(m, d).layers.values()]
    ],
    "LSUV": lambda m, d, _: list(initializers.LSUV(m, d).values()),
    "describe": lambda m, d, _: [initializers.describe(m, d, training=False).variances],
    "calibrate": lambda m, d, _: list(quantize.calibrate(m, d).ranges().values()),
    "correct_bias": lambda m, d, _: quantize.correct_bias(m, d).get_weights(),
    "quantize.sensitivity": lambda m, d, _: [[r.sqnr_db for r in quantize.sensitivity(m, d, ("int4",)).rows]],
    "mixed_precision": lambda m, d, _: [
        [p == "int8" for p in quantize.mixed_precision(m, d, {"tflite_bytes": 0.995}, ("int8", "int4")).layers.values()]
    ],
    "adaround": lambda m, d, _: list(quantize.adaround(m, d, steps=2).ranges().values()),
    "blockwise": lambda m, d, _: list(quantize.blockwise(m, d, steps=2).ranges().values()),
    "Prune": lambda m, d, _: pruned(m, d, callbacks.Prune, "snip"),
    "PruneChannels": lambda m, d, _: pruned(m, d, callbacks.PruneChannels, "hessian"),
    "Diagnose": lambda m, d, _: diagnosed(m, d),
    "predict_distribution": lambda m, d, _: [predict_distribution(m, d, passes=2).mean],
    "cached": cached,
    "compress": lambda m, d, _: opened(m, d),
}
# What batches the source has changes nothing here; generators are read once.
CASES = [
    pytest.param(reader, form, marks=[] if form in SOME else [pytest.mark.slow]) for reader in READERS for form in FORMS
]
_found: dict = {}


def result(reader, form, folder):
    return [np.asarray(value, "float64") for value in READERS[reader](network(), FORMS[form](folder), folder)]


@pytest.mark.parametrize("reader, form", CASES)
@pytest.mark.sweep(12)
def test_every_function_reads_every_form_alike(reader, form, tmp_path):
    if reader == "cached" and form == "dataset":
        pytest.skip("a tf.data.Dataset is streamed, in its own batches: it says to call batch")
    weighted = reader == "Diagnose" and form in WEIGHTED  # its loss is that of training
    key = reader, "weights" if weighted else "pair"
    if key not in _found:
        (tmp_path / "first").mkdir()
        _found[key] = result(*key, tmp_path / "first")
    found = result(reader, form, tmp_path)
    assert len(found) == len(_found[key]) and sum(value.size for value in found)
    for value, wanted in zip(found, _found[key], strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_batches(form, tmp_path):
    model = network()
    samples = samples_of(model, FORMS[form](tmp_path), need="the test needs labels")
    batches = list(samples.batches(10))
    assert [batch.size for batch in batches] == [10, 10, 4]
    np.testing.assert_allclose(np.concatenate([batch.inputs[0] for batch in batches]), X, rtol=1e-6)
    np.testing.assert_array_equal(np.concatenate([batch.labels for batch in batches]), Y)
    if weighted := form in WEIGHTED:
        np.testing.assert_array_equal(np.concatenate([batch.weights for batch in batches]), W)
    assert weighted or batches[0].weights is None
    one, wanted = samples_of(model, FORMS[form](tmp_path), limit=9).in_memory(), X[:9]
    np.testing.assert_allclose(one.inputs[0], wanted, rtol=1e-6)
    assert one.labels is None  # not asked for


def two_by_two(named: bool) -> keras.Model:
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    x = layers.Concatenate()([a, b])
    kind, size = layers.Dense(3, activation="softmax", name="kind")(x), layers.Dense(1, name="size")(x)
    inputs = {"a": a, "b": b} if named else [a, b]
    return keras.Model(inputs, {"kind": kind, "size": size} if named else [kind, size])


@pytest.mark.parametrize("named", [False, True])
def test_several_inputs_and_outputs(named):
    """By name or in order, both arrive in the model's own structure."""
    model, (a, b) = two_by_two(named), (X[:, :4], X[:, 3:])
    size = W[:, None]
    inputs = [{"a": a, "b": b}, {"b": b, "a": a}, [a, b]]
    labels = [{"size": size, "kind": Y}, [Y, size], (Y, size)]
    for x, y in itertools.product(inputs, labels):
        sources = [(x, y), dataset(keras.tree.lists_to_tuples(x), keras.tree.lists_to_tuples(y)).batch(5)]
        for data in [*sources, lambda s=sources[1]: iter(s)]:
            samples = samples_of(model, data, use_labels=True)
            found = samples.in_memory()
            np.testing.assert_array_equal(found.inputs[0], a)
            np.testing.assert_array_equal(found.inputs[1], b)
            flat = [found.labels["kind"], found.labels["size"]] if named else found.labels
            np.testing.assert_array_equal(flat[0], Y)
            np.testing.assert_array_equal(flat[1], size)
            outputs = keras.tree.flatten(model(samples.ports.arranged(found.inputs)))
            assert [x.shape[-1] for x in outputs] == [3, 1]
    beside = samples_of(model, [a, b], {"size": size, "kind": Y}).in_memory().labels
    np.testing.assert_array_equal(beside["size"] if named else beside[1], size)


def test_names_of_inputs_are_the_keys_that_the_model_was_built_with():
    with pytest.warns(UserWarning, match="keys in the dict must match"):
        one, other = keras.Input((4,), name="my-other"), keras.Input((3,), name="b")
        model = keras.Model({"left": one, "right": other}, layers.Concatenate()([one, other]))
    for names in (("left", "right"), ("my-other", "b"), ("my_other", "b")):
        found = samples_of(model, dict(zip(names, (X[:, :4], X[:, 3:]), strict=True))).in_memory()
        assert [x.shape[1] for x in found.inputs] == [4, 3]


BAD = {
    "nothing": (lambda: None, "Received: None"),
    "a number": (lambda: 3, "received int"),
    "another shape": (lambda: (X[:, :5], Y), r"expected shape \(6\), received \(5,\)|expected shape \(6,\)"),
    "another shape later": (lambda: iter([(X[:4], Y[:4]), (X[4:, :5], Y[4:])]), r"expected shape \(6,\)"),
    "another number of labels": (lambda: (X, Y[:-1]), "as many labels as samples.*'labels' 23"),
    "four parts": (lambda: (X, Y, W, W), "received 4 parts"),
    "another name": (lambda: ({"other": X, "more": X}, Y), "expected the inputs 'input'"),
    "one sample": (lambda: (X[0], Y[:1]), "Add the axis"),
    "words": (lambda: (np.array([["a"] * 6]), Y[:1]), "expected numbers"),
    "no samples": (lambda: iter([]), "no samples"),
    "an endless dataset": (lambda: dataset(X, Y).batch(4).repeat(), "without end"),
    "no file": (lambda: "nowhere.npz", "found nothing there"),
    "a function that fails": (lambda: lambda: 1 / 0, "raised ZeroDivisionError"),
}
REFUSERS = ("importance activation", "calibrate", "recalibrate_batch_norm", "sensitivity", "compress", "adaround")


@pytest.mark.parametrize("reader", REFUSERS)
def test_bad_data_is_one_error(reader, tmp_path):
    model = network()
    for name, (make, said) in BAD.items():
        with pytest.raises(DataError, match=said) as caught:
            READERS[reader](model, make(), tmp_path)
        assert "\n" not in str(caught.value), name


def test_a_tuple_is_samples_and_labels_and_the_error_of_two_inputs_says_so():
    model = two_by_two(False)
    with pytest.raises(DataError, match=r"a tuple, which is read as \(x, y\). Give a dict by these names, or a list"):
        samples_of(model, (X[:, :4], X[:, 3:]))
    assert len(samples_of(model, ([X[:, :4], X[:, 3:]],)).in_memory().inputs) == 2


def counted(taken: list):
    def generator():
        while True:
            taken.append(1)
            yield X[len(taken) % COUNT], Y[len(taken) % COUNT]

    return generator


@pytest.mark.parametrize(
    "run, most",
    [
        (lambda m, d: initializers.LSUV(m, d, samples=10), 10),
        (lambda m, d: initializers.describe(m, d, samples=10), 10),
        (lambda m, d: callbacks.Diagnose(d, samples=10).attach(m), 10),
        (lambda m, d: surgery.recalibrate_batch_norm(m, d, batch_size=5, steps=2), 10),
        (lambda m, d: surgery.analyze_bottlenecks(m, d), 256),
        (lambda m, d: list(samples_of(m, d, limit=10).batches(3)), 10),
    ],
)
def test_no_more_is_read_than_is_taken(run, most):
    taken: list = []
    run(network(), counted(taken))
    assert len(taken) == most


@pytest.mark.parametrize("reader", ["calibrate", "recalibrate_batch_norm", "importance activation", "drop_blocks"])
def test_what_passes_over_the_data_once_streams_it(reader, tmp_path):
    alive, most = [], 0

    class Watched(np.ndarray):
        pass

    def batches():
        nonlocal most
        for _ in range(40):
            batch = rng.normal(size=(8, 6)).astype("float32").view(Watched)
            alive.append(weakref.ref(batch))
            most = max(most, sum(one() is not None for one in alive))
            yield batch
            del batch

    READERS[reader](network(), batches(), tmp_path)
    assert len(alive) == 40 and most <= 8


def test_models_that_do_not_know_their_inputs_take_batches():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm = layers.BatchNormalization()
            self.head = layers.Dense(3, activation="softmax")

        def call(self, x, training=None):
            return self.head(self.norm(x, training=training))

    for make in (lambda: (X, Y), lambda: iter([(X[:12], Y[:12]), (X[12:], Y[12:])]), lambda: dataset(X, Y).batch(12)):
        model = Own()
        model.compile("sgd", "sparse_categorical_crossentropy")
        assert analyze.gradient_noise_scale(model, make(), batch_size=3, groups=4).samples == COUNT
        surgery.recalibrate_batch_norm(model, make(), batch_size=12)
        np.testing.assert_allclose(model.norm.moving_mean, X.mean(0), atol=1e-5)


ROOM = pathlib.Path(__file__).parents[2] / "tfstruct"
# They read batches of training as Keras gives them, or what a pipeline of tf.data is made of.
_OTHERS = {"callbacks/diagnose.py", "distill/teacher_cache.py", "augment/pipeline.py"}


def test_no_second_reader_of_data():
    """Nobody but the room asks what kind of data came: (x, y), a dataset, a generator."""
    found = set()
    for file in ROOM.rglob("*.py"):
        name = file.relative_to(ROOM).as_posix()
        for node in ast.walk(ast.parse(file.read_text())):
            asks = isinstance(node, ast.Attribute) and node.attr in ("cardinality", "unpack_x_y_sample_weight")
            asks |= isinstance(node, ast.Attribute) and node.attr in ("as_numpy_iterator", "PyDataset")
            if asks and not name.startswith("samples/"):
                found.add(name)
    assert found <= _OTHERS | {"callbacks/probe.py", "compression/dataset.py", "optimizers/sharpness_aware.py"}, found
