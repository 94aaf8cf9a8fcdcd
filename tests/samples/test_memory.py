"""Arrays, datasets, generators and other iterables give back their values; every misfit is one DataError."""

import numpy as np
import pytest
import tensorflow as tf
from sample_cases import GREY, LABELS, PAIR, ROW, ROWS, A, B, assert_pair, assert_rows, labels, refuse, values

from tfstruct.errors import DataError
from tfstruct.samples import TensorSpec, open_samples


def test_array():
    samples = open_samples(ROWS, [ROW])
    assert_rows(samples, with_labels=False)
    assert (samples.count, samples.reiterable) == (4, True)
    assert "(4, 3) float32" in samples.source


def test_tuple_of_x_and_y_and_weights():
    assert_rows(open_samples((ROWS, LABELS), [ROW]))
    assert_rows(open_samples((ROWS, LABELS[:, None], np.ones(4)), [ROW]))
    assert_rows(open_samples((ROWS.tolist(), LABELS.tolist()), [ROW]))
    assert labels(open_samples((ROWS[:1], 5), [ROW])) == labels(open_samples([(ROWS[:1], 5)], [ROW])) == [5]


def test_dict_and_list_of_arrays():
    assert_pair(open_samples({"a": A, "b": B}, PAIR))
    assert_pair(open_samples([A, B], PAIR))
    assert_pair(open_samples(([A, B], [0, 1, 2]), PAIR))
    samples = open_samples({"a": A, "b": B, "label": [0, 1, 2]}, PAIR)
    assert_pair(samples)
    assert labels(samples) == [0, 1, 2]


def test_labels_of_several_outputs_keep_their_structure():
    got = open_samples((ROWS, {"kind": LABELS, "box": ROWS}), [ROW]).take(1)[0].label
    assert got["kind"] == 3
    np.testing.assert_array_equal(got["box"], ROWS[0])
    assert open_samples((ROWS, (LABELS, LABELS)), [ROW]).take(1)[0].label == (3, 3)


def test_vector_and_float_labels_stay_arrays():
    one_hot = np.eye(4, dtype=np.float32)
    np.testing.assert_array_equal(np.stack(labels(open_samples((ROWS, one_hot), [ROW]))), one_hot)
    label = open_samples((ROWS, np.array([0.5, 1, 2, 3])), [ROW]).take(1)[0].label
    assert isinstance(label, np.ndarray) and label == 0.5


def test_array_errors():
    refuse("expected a batch axis and then.*Add the axis", ROWS[0])
    refuse(r"sample 0: expected shape \(3,\), received \(2,\)", np.zeros((4, 2)))
    refuse("expected as many labels as samples", (ROWS, LABELS[:3]))
    refuse("expected as many labels", [A, B[:2]], PAIR)
    refuse("parts", (ROWS, LABELS, LABELS, LABELS))
    refuse("received int", 3)
    refuse("holds no samples", ROWS[:0])
    refuse("holds no samples", [])
    refuse("received dtype string", ROWS, [TensorSpec("text", (), "string")])


def test_dict_names():
    refuse(r"expected the inputs 'a', 'b'.*missing 'b'", {"a": A, "c": B}, PAIR)
    refuse("expected the inputs 'a', 'b'.*left over 'c'", {"a": A, "b": B, "c": B}, PAIR)
    refuse("expected a value for each of the inputs", A, PAIR)
    refuse("expected a value for each of the inputs.*received 3 values", ([A, B, B], None), PAIR)


def test_generators():
    assert_rows(open_samples((r for r in ROWS), [ROW]), with_labels=False)
    assert_rows(open_samples(zip(ROWS, LABELS, strict=True), [ROW]))
    assert_rows(open_samples(lambda: zip(ROWS, LABELS, strict=True), [ROW]))
    assert_rows(open_samples(lambda: ({"x_in": r, "label": y} for r, y in zip(ROWS, LABELS, strict=True)), [ROW]))
    assert_rows(open_samples(lambda: ([r[None]] for r in ROWS), [ROW]), with_labels=False)  # as TFLite has it
    assert_rows(open_samples([r.tolist() for r in ROWS], [ROW]), with_labels=False)
    assert_rows(open_samples([ROWS], [ROW]), with_labels=False)


def test_generators_of_batches():
    batches = [(ROWS[:3], LABELS[:3]), (ROWS[3:], LABELS[3:])]
    assert_rows(open_samples(lambda: iter(batches), [ROW]))
    assert_rows(open_samples(batches, [ROW]))
    refuse("expected as many labels as samples", [(ROWS, LABELS[:2])])
    grey = np.random.default_rng(0).random((5, 4, 4), np.float32)  # a batch without channels, of rank 3
    np.testing.assert_array_equal(values(open_samples([grey], [GREY])), grey[..., None])
    one = TensorSpec("x", (1,), "float32")
    assert values(open_samples([np.arange(5)], [one])).tolist() == [[0], [1], [2], [3], [4]]


def test_generators_of_several_inputs():
    def dicts():
        for a, b in zip(A, B, strict=True):
            yield {"a": a, "b": b}

    assert_pair(open_samples(dicts, PAIR))
    assert_pair(open_samples(lambda: ([a, b] for a, b in zip(A, B, strict=True)), PAIR))
    assert_pair(open_samples(lambda: iter([({"a": A, "b": B}, LABELS[:3])]), PAIR))
    refuse("element 0: expected a value for each", (a for a in A), PAIR)
    refuse("left over 'c'", ({**d, "c": 1} for d in dicts()), PAIR)


def test_a_generator_is_read_once():
    samples = open_samples((r for r in ROWS), [ROW])
    assert not samples.reiterable and samples.count is None
    assert len(samples.take(2)) == 2
    with pytest.raises(DataError, match="can be read once only"):
        iter(samples)
    assert open_samples(lambda: iter(ROWS), [ROW]).reiterable


def test_an_endless_generator_and_a_limit():
    pulled = []

    def endless():
        while True:
            pulled.append(1)
            yield ROWS[0]

    assert len(list(open_samples(endless, [ROW], limit=3))) == len(pulled) == 3


def test_generator_errors():
    refuse("expected it to return an iterable, received int", lambda: 3)
    refuse("holds no samples", iter(()))
    refuse("element 0, input 'x_in': expected numbers", iter(["abc"]))
    refuse(r"sample 1: expected shape \(3,\), received \(2,\)", iter([ROWS[0], ROWS[0, :2]]))
    refuse("neither a key", iter(ROWS), labels="y")


def test_what_the_users_code_raises_names_the_sample():
    def lost():
        yield ROWS[:3]
        yield ROWS[3]
        raise KeyError("gone")

    def closed():
        raise OSError("no disk.")

    class Folder:
        __iter__ = staticmethod(closed)

    refuse("Function lost raised KeyError on sample 4: 'gone'. Correct it.", lost)
    refuse("Generator lost raised KeyError on sample 4", lost())
    refuse("Function closed raised OSError on sample 0: no disk. Correct it.$", closed)
    refuse("Folder raised OSError on sample 0: no disk", Folder())
    failing = tf.data.Dataset.from_tensor_slices(ROWS).map(lambda x: tf.debugging.check_numerics(1 / (x - 3), "bad"))
    refuse("Dataset raised InvalidArgumentError on sample 1", failing)
    with pytest.raises(DataError) as caught:
        list(open_samples(lost, [ROW]))
    assert isinstance(caught.value.__cause__, KeyError)


def test_dataset():
    plain = tf.data.Dataset.from_tensor_slices(ROWS)
    pairs = tf.data.Dataset.from_tensor_slices((ROWS, LABELS))
    named = tf.data.Dataset.from_tensor_slices({"x_in": ROWS, "label": LABELS})
    assert_rows(open_samples(plain, [ROW]), with_labels=False)
    assert_rows(open_samples(plain.map(lambda x: (x,)), [ROW]), with_labels=False)
    for dataset in (pairs, named):
        samples = open_samples(dataset, [ROW])
        assert samples.reiterable
        assert_rows(samples)
        assert_rows(samples)
        assert_rows(open_samples(dataset.batch(3), [ROW]))
    assert_pair(open_samples(tf.data.Dataset.from_tensor_slices(({"a": A, "b": B}, [0, 1, 2])).batch(2), PAIR))
    assert_pair(open_samples(tf.data.Dataset.from_tensor_slices(((A, B), [0, 1, 2])), PAIR))
    assert labels(open_samples(named, [ROW], labels="label")) == list(LABELS)


def test_dataset_errors():
    dataset = tf.data.Dataset.from_tensor_slices(ROWS)
    refuse("repeats without end", dataset.repeat())
    assert len(list(open_samples(dataset.repeat(), [ROW], limit=9))) == 9
    refuse("holds no samples", dataset.take(0))
    refuse("element 0, input .*dtype .S1", tf.data.Dataset.from_tensor_slices(["a"]))
    assert_rows(open_samples(tf.constant(ROWS), [ROW]), with_labels=False)
