"""Changes to the batches of a `tf.data.Dataset`."""

import dataclasses
import itertools
from collections.abc import Iterable

import keras
import tensorflow as tf

from tfstruct.arguments import require_count, require_one_of, require_range
from tfstruct.augment.draws import Change, Draws, changed
from tfstruct.augment.mixing import Mix
from tfstruct.errors import ArgumentError, DataError
from tfstruct.reporting import draw


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Random changes to the inputs of batches; other than that the dataset is the same.

        train = augment.images("medium", classes=10)(dataset.shuffle(10_000).batch(64)).prefetch(2)

    Shapes and dtypes are kept, labels and sample weights too unless `mix` mixes samples. Draws depend on `seed`, on
    which pass over the dataset it is and on the batch's number: each epoch is another, and a second run of the same
    program gives the same. As it happens in the dataset, a teacher sees what its student sees.

    Args:
        changes: made one after the other, each a function of the batch's values (float32, but for `kind` "tokens") and
            of `Draws`, or a layer of Keras, such as `keras.layers.RandomZoom(0.1)`.
        mix: of whole samples with their labels, after that.
        value_range: values are kept in it; integers are rounded. A first batch that is clearly of another range stops
            the dataset with an `InvalidArgumentError`.
        input: name or number of the input that is changed, where the model has several.
        kind: what `plot` draws: "images", "waves", "spectrograms" or "tokens".

    Example:
        >>> import tensorflow as tf
        >>> batches = tf.data.Dataset.from_tensor_slices((images, y[:16])).batch(8)
        >>> mirror = tfstruct.augment.Pipeline((lambda values, draws: values[:, :, ::-1],))
        >>> changed, labels = next(iter(mirror(batches)))
        >>> np.array_equal(changed[0], images[0, :, ::-1])
        True
    """

    changes: tuple[Change, ...]
    mix: Mix | None = None
    value_range: tuple[float, float] | None = None
    seed: int = 0
    input: str | int | None = None
    kind: str = "images"

    def __post_init__(self):
        changes = tuple(self.changes) if isinstance(self.changes, Iterable) else (self.changes,)
        if not all(map(callable, changes)):
            raise ArgumentError(f"`changes` must be layers or functions, in a list. Received: {self.changes!r}.")
        if any(isinstance(change, Mix) for change in changes):
            raise ArgumentError("A Mix is no change of the inputs alone. Give it as `mix`. Received it in `changes`.")
        object.__setattr__(self, "changes", changes)
        if self.mix is not None and not isinstance(self.mix, Mix):
            raise ArgumentError(f"`mix` must be a Mix, or None. Received: {self.mix!r}.")
        require_count("seed", self.seed, least=0)
        require_one_of("kind", self.kind, RANKS)
        if self.value_range is not None:
            require_range("value_range", self.value_range)

    def __call__(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """The dataset with changed batches.

        Raises:
            DataError: not a dataset of batches, or labels that cannot be mixed.
        """
        self._check(dataset)
        passes = itertools.count()
        numbers = tf.data.Dataset.from_generator(
            lambda: iter([next(passes)]), output_signature=tf.TensorSpec((), tf.int64)
        ).flat_map(lambda number: tf.data.Dataset.counter().map(lambda batch: (number, batch)))
        numbered = tf.data.Dataset.zip(dataset, numbers)
        made = numbered.map(
            tf.autograph.experimental.do_not_convert(self._batch),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        # TensorFlow does not know how long a generator is.
        length = int(dataset.cardinality())
        unknown = tf.data.UNKNOWN_CARDINALITY
        return made if length == unknown else made.apply(tf.data.experimental.assert_cardinality(length))

    def numbered(self, batches: tf.data.Dataset, steps: int, first: int = 0) -> tf.data.Dataset:
        """The same for batches of several passes in a row, `steps` a pass, of which `first` went before: training that
        goes on after some epochs sees what it would have seen.

        Raises:
            DataError: as above.
        """
        self._check(batches)

        def change(number, *batch):
            return self._batch(batch if len(batch) > 1 else batch[0], (number // steps, number % steps))

        numbered = tf.data.Dataset.zip(tf.data.Dataset.counter(first * steps), batches).map(
            lambda number, batch: (number, *_tuple(batch))
        )
        change = tf.autograph.experimental.do_not_convert(change)
        return numbered.map(change, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(2)

    def plot(self, data, count: int = 4, path=None, ax=None):
        """Draws samples as they are and as three epochs would show them. Needs matplotlib.

        Args:
            data: arrays x or (x, y), or a dataset of batches.
            count: of samples.
            path, ax: see `tfstruct.reporting.Plotted.plot`.

        Returns:
            The `matplotlib.figure.Figure`.
        """
        from tfstruct.augment.gallery import fill

        if not isinstance(data, tf.data.Dataset):
            data = tf.data.Dataset.from_tensor_slices(data).batch(count)
        first = data.unbatch().batch(count).take(1)
        epochs = [first, *([self(first)] * 3)]  # each time it is run through is another epoch
        shown = [keras.utils.unpack_x_y_sample_weight(_tuple(next(iter(epoch)))) for epoch in epochs]
        samples = [(self._input(x), y) for x, y, _ in shown]
        size = (2.2 * len(samples), 1.9 * len(samples[0][0]))
        return draw(lambda figure: fill(figure, self.kind, samples, self.value_range), size, 0, path, ax)

    def _input(self, x):
        return x if self.input is None else x[self.input]

    def _check(self, dataset) -> None:
        if not isinstance(dataset, tf.data.Dataset):
            raise DataError(
                f"Expected a tf.data.Dataset of batches. Received: {type(dataset).__name__}. Of arrays, make one by "
                "tf.data.Dataset.from_tensor_slices((x, y)).batch(64)."
            )
        x, y, weights = keras.utils.unpack_x_y_sample_weight(_tuple(dataset.element_spec))
        ranks = RANKS[self.kind]
        try:
            spec = self._input(x)
        except (KeyError, IndexError, TypeError) as error:
            raise DataError(f"The dataset has no input {self.input!r}. Received elements {x}.") from error
        if self.kind == "tokens" and isinstance(spec, tf.TensorSpec) and spec.dtype == tf.string:
            raise DataError(
                "Expected tokens, which are integers. Received text: map keras.layers.TextVectorization first."
            )
        if not isinstance(spec, tf.TensorSpec) or spec.shape.rank not in ranks:
            several = " Give input=, the name or number of one." if isinstance(spec, dict | tuple) else ""
            raise DataError(
                f"Expected batches of {self.kind}, tensors of rank {' or '.join(map(str, ranks))}. Received: {spec}: "
                f"call batch(...) first.{several}"
            )
        if self.mix is not None:
            self.mix.check(y, weights)

    def _batch(self, batch, numbers):
        x, y, weights = keras.utils.unpack_x_y_sample_weight(_tuple(batch))
        draws = Draws(tf.random.experimental.stateless_fold_in((self.seed, numbers[0]), numbers[1]))
        before = self._input(x)
        values = before if self.kind == "tokens" else tf.cast(before, tf.float32)
        if self.value_range is not None:
            first = tf.reduce_all([number == 0 for number in numbers])
            span = self.value_range
            tf.cond(first, lambda: _require_range(values, before.dtype, *span), lambda: True)
        for change in self.changes:
            values = changed(change, values, draws)
        if self.mix is not None:
            values, y, weights = self.mix(values, y, weights, draws)
        if self.value_range is not None:
            values = tf.clip_by_value(values, *map(float, self.value_range))
        if before.dtype.is_integer and values.dtype.is_floating:
            values = tf.round(values)
        if values.dtype != before.dtype:  # `saturate_cast` makes the least number of all int64 that stay int64
            values = tf.saturate_cast(values, before.dtype)
        values = tf.ensure_shape(values, before.shape)
        made = (self._with(x, values), y, weights)
        if not isinstance(batch, tuple):
            return made[0]
        return made[: len(batch)]

    def _with(self, x, values):
        if self.input is None:
            return values
        if isinstance(x, dict):
            return {**x, self.input: values}
        return tuple(values if i == self.input else part for i, part in enumerate(x))


# Of a batch.
RANKS = {"images": (4,), "waves": (2, 3), "spectrograms": (3, 4), "tokens": (2,)}


def _tuple(batch) -> tuple:
    return batch if isinstance(batch, tuple) else (batch,)


def _require_range(values, dtype, low: float, high: float):
    """Stops a dataset whose values are clearly of another range, which clipping would hide."""
    least, most = tf.reduce_min(values), tf.reduce_max(values)
    slack = 0.1 * (high - low)  # interpolation overshoots
    right = (least >= low - slack) & (most <= high + slack)
    if dtype.is_floating and max(abs(low), abs(high)) >= 100:
        small = (tf.maximum(-least, most) < 1.5) & tf.reduce_any(values != tf.round(values))
        right &= ~small  # scaled to [0, 1] or [-1, 1]
    what = f"`value_range` is {(low, high)}, and the first batch has another: give its range. Its least and most:"
    with tf.control_dependencies([tf.debugging.Assert(right, [what, least, most])]):
        return tf.constant(True)
