"""What a student shall have in common with its teacher: losses by the protocol of `keras.distillation`.

`compute_loss(teacher_outputs, student_outputs)` is a mean over the samples of the batch, in float32.
"""

from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from tfstruct.arguments import checked, require_number
from tfstruct.distill.class_scores import KINDS, as_logits, kinds_of, named
from tfstruct.errors import ArgumentError

# Layers of the student and of the teacher: a name or pattern for both, or student -> teacher.
Layers = str | Sequence[str] | Mapping[str, str]

_TINY = 1e-12
_COINCIDE = 1e-5  # of the mean square: below it a squared distance is rounding


@checked
class Logits(keras.distillation.DistillationLoss):
    """Class probabilities at a temperature T (arXiv:1503.02531, section 2):

        L = T^2 * mean over samples of sum over classes of p * (log p - log q),  p = softmax(t/T),  q = softmax(s/T)

    with the logits t of the teacher and s of the student; summed over the outputs. T^2 keeps the gradient's size when T
    changes. Logits are read off probabilities where a model ends in softmax, t = log p; a unit that ends in sigmoid
    counts as two classes with the logits log(p / (1 - p)) and 0.

    `keras.distillation.LogitsDistillation` does the same only with `loss=keras.losses.KLDivergence()` and models that
    end in logits: its default in Keras 3.15 takes the divergence of the logits themselves.

    Args:
        temperature: T > 0.
        outputs: names of the output layers that are compared; None: all.
        teacher_outputs, student_outputs: what the models put out: "logits", "softmax", "sigmoid", "binary_logits" (of
            units that each stand for yes or no), or a list by output; None: read off the last layer.

    Raises:
        ModelError: what a model puts out cannot be read off: a subclassed model, an activation that makes no classes,
            or one unit without an activation.

    Example:
        >>> loss = tfstruct.distill.Logits(temperature=2.0)
        >>> same = np.float32([[1.0, -1.0]])
        >>> round(float(loss.compute_loss(same, same)), 4)
        0.0
    """

    def __init__(
        self,
        temperature: float = 4.0,
        *,
        outputs: Sequence[str] | None = None,
        teacher_outputs: str | Sequence[str] | None = None,
        student_outputs: str | Sequence[str] | None = None,
    ):
        require_number("temperature", temperature, above=0)
        for given in (teacher_outputs, student_outputs):
            for kind in [given] if isinstance(given, str) else () if given is None else given:
                if kind not in KINDS:
                    raise ArgumentError(f"Outputs must be of {', '.join(KINDS)}. Received: {kind!r}.")
        self.temperature = float(temperature)
        self.outputs = [outputs] if isinstance(outputs, str) else outputs
        self.teacher_outputs, self.student_outputs = teacher_outputs, student_outputs
        self._chosen: list[int] | None = None
        self._kinds: tuple[str | list[str], str | list[str]] = "logits", "logits"

    def validate_model_compatibility(self, teacher: keras.Model, student: keras.Model) -> None:
        self._chosen = None if self.outputs is None else named(student, self.outputs)
        self._kinds = (
            kinds_of(teacher, self.teacher_outputs, self._chosen),
            kinds_of(student, self.student_outputs, self._chosen),
        )

    def compute_loss(self, teacher_outputs, student_outputs, **kwargs):
        teachers, students = keras.tree.flatten(teacher_outputs), keras.tree.flatten(student_outputs)
        chosen = range(len(students)) if self._chosen is None else self._chosen
        kinds = [[k] * len(chosen) if isinstance(k, str) else k for k in self._kinds]
        total = 0.0
        for i, teacher_kind, student_kind in zip(chosen, *kinds, strict=True):
            log_p = tf.nn.log_softmax(as_logits(teachers[i], teacher_kind) / self.temperature)
            log_q = tf.nn.log_softmax(as_logits(students[i], student_kind) / self.temperature)
            total += tf.reduce_mean(tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), axis=-1))
        return self.temperature**2 * total


@checked
class Features(keras.distillation.FeatureDistillation):
    """The values of inner layers: L = mean over samples, positions and channels of (t - s)^2 (arXiv:1412.6550, eq. 3).

    Where widths differ, `Distill` picks the teacher's channels that the student has, if it is told which, and learns a
    linear map of the student's channels to the teacher's (a 1x1 convolution) otherwise. Over several pairs of layers:
    their mean.

    Args:
        layers: names of layers that both models have, `*` and `?` match; or student's -> teacher's; None: the outputs.
            Layers of a nested model are `block/conv`.
        loss: of `keras.losses`, by name or as a function.

    Example:
        >>> loss = tfstruct.distill.Features({"hidden": "hidden"})
        >>> float(loss.compute_loss(np.float32([[1.0, 3.0]]), np.float32([[0.0, 1.0]])))  # (1 + 4) / 2
        2.5
    """

    def __init__(self, layers: Layers | None = None, loss="mse"):
        if not isinstance(loss, str) and not callable(loss):
            raise ArgumentError(f"`loss` must be of keras.losses, by name or as a function. Received: {loss!r}.")
        super().__init__(loss=loss)
        self.layers = layers


@checked
class Attention(keras.distillation.DistillationLoss):
    """Where inner layers are active (arXiv:1612.03928, section 3.1), whatever their width:

        L = mean over samples of |q_s / |q_s| - q_t / |q_t||^2,   q = sum over channels of |a|^power, by position

    The square of the paper's distance, as the distance itself has no gradient where maps are equal. Over several pairs
    of layers: their mean.

    Args:
        layers: as in `Features`; both models' maps need equal heights, widths or lengths.
        power: larger ones look at the largest activations.
        axis: of the channels.

    Example:
        >>> loss = tfstruct.distill.Attention({"stem": "stem"})
        >>> active = images[:1, :4, :4]
        >>> round(float(loss.compute_loss(active, 2 * active)), 4)  # equal but for a factor
        0.0
    """

    def __init__(self, layers: Layers, power: float = 2.0, axis: int = -1):
        require_number("power", power, above=0)
        self.layers, self.power, self.axis = layers, power, axis

    def validate_outputs(self, teacher_outputs, student_outputs) -> None:
        super().validate_outputs(teacher_outputs, student_outputs)
        sizes = [list(x.shape) for x in (student_outputs, teacher_outputs)]
        for size in sizes:
            if len(size) < 3:
                raise ArgumentError(
                    f"Attention needs layers with positions and channels. Received: shape {tuple(size)}."
                )
            size.pop(self.axis)
        if sizes[0] != sizes[1]:
            raise ArgumentError(
                f"Attention needs layers with equally many positions. Received: {tuple(student_outputs.shape)} and, of "
                f"the teacher, {tuple(teacher_outputs.shape)}."
            )

    def compute_loss(self, teacher_outputs, student_outputs, **kwargs):
        difference = self._map(teacher_outputs) - self._map(student_outputs)
        return tf.reduce_mean(tf.reduce_sum(tf.square(difference), axis=-1))

    def _map(self, x):
        maps = tf.reduce_sum(tf.abs(x) ** self.power, axis=self.axis)
        return tf.math.l2_normalize(_flat(maps), axis=-1, epsilon=_TINY)


@checked
class Relational(keras.distillation.DistillationLoss):
    """How the samples of a batch lie to each other (RKD, arXiv:1904.05068), whatever the widths:

        L = distance * mean over pairs of huber(psi_D(s_i, s_j) - psi_D(t_i, t_j))
          + angle * mean over triplets of huber(psi_A(s_i, s_j, s_k) - psi_A(t_i, t_j, t_k))

    psi_D(a, b) = |a - b| / mu with the mean mu over the batch's pairs (eq. 3), psi_A(a, b, c) the cosine of the angle
    at b (eq. 6), huber(e) = e^2 / 2 up to |e| = 1 and |e| - 1/2 above. Pairs and triplets are of different samples; an
    angle with samples that coincide counts as cosine 0. Values of n^3 triplets are in memory for n samples a batch.

    Args:
        layers: as in `Features`; None: the outputs. Several pairs of layers: their mean.
        distance, angle: weights of the two parts.

    Example:
        >>> loss = tfstruct.distill.Relational()
        >>> points = np.float32([[0, 0], [0, 1], [1, 0]])
        >>> round(float(loss.compute_loss(points, 3 * points)), 4)  # equal but for a factor
        0.0
    """

    def __init__(self, layers: Layers | None = None, *, distance: float = 1.0, angle: float = 2.0):
        if min(distance, angle) < 0 or max(distance, angle) == 0:
            raise ArgumentError(f"`distance` and `angle` must be at least 0, one above. Received: {distance}, {angle}.")
        self.layers, self.distance, self.angle = layers, distance, angle

    def compute_loss(self, teacher_outputs, student_outputs, **kwargs):
        outputs = [keras.tree.flatten(x) for x in (teacher_outputs, student_outputs)]
        teacher, student = (_Relations(tf.concat([_flat(x) for x in flat], axis=-1)) for flat in outputs)
        different = 1.0 - tf.eye(tf.shape(teacher.products)[0])
        loss = 0.0
        if self.distance:
            errors = student.distances(different) - teacher.distances(different)
            loss += self.distance * _mean(_huber(errors), different)
        if self.angle:
            # By [j, i, k]: the angle at j.
            distinct = different[:, :, None] * different[:, None, :] * different[None, :, :]
            loss += self.angle * _mean(_huber(student.cosines() - teacher.cosines()), distinct)
        return loss


class _Relations:
    """Distances and angles of a batch's samples, from their scalar products."""

    def __init__(self, x):
        x = x - tf.reduce_mean(x, axis=0, keepdims=True)  # which neither sees; products lose fewer digits
        self.products = tf.matmul(x, x, transpose_b=True)
        self._squares = tf.linalg.diag_part(self.products)
        squared = self._squares[:, None] + self._squares[None, :] - 2.0 * self.products
        # Where samples coincide, and on the diagonal, neither root nor cosine has a gradient.
        self._apart = squared > _COINCIDE * tf.reduce_mean(self._squares)
        self._lengths = tf.sqrt(tf.where(self._apart, squared, 1.0))

    def distances(self, different):
        """By [i, j], |x_i - x_j| over its mean."""
        lengths = tf.where(self._apart, self._lengths, 0.0)
        return tf.math.divide_no_nan(lengths, _mean(lengths, different))

    def cosines(self):
        """By [j, i, k], the cosine of the angle at x_j between x_i and x_k."""
        products = self.products
        dots = products[None, :, :] - products[:, :, None] - products[:, None, :] + self._squares[:, None, None]
        apart = self._apart[:, :, None] & self._apart[:, None, :]
        return tf.where(apart, dots / (self._lengths[:, :, None] * self._lengths[:, None, :]), 0.0)


def _flat(x):
    return tf.reshape(x, (tf.shape(x)[0], -1))


def _huber(errors):
    size = tf.abs(errors)
    return tf.where(size <= 1.0, 0.5 * tf.square(errors), size - 0.5)


def _mean(values, weights):
    return tf.math.divide_no_nan(tf.reduce_sum(values * weights), tf.reduce_sum(weights))
