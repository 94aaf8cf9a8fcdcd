"""Figures of a run to findings: one function a symptom, none of which knows a model.

Limits follow from arithmetic or the literature, as said beside each.
"""

import dataclasses
import itertools
import math
import statistics
from collections.abc import Sequence

from tfstruct.callbacks.diagnosis import Finding
from tfstruct.callbacks.probe import Figures, LayerFigures

# float32 keeps 24 bits, 6e-8. A step changes weights by some 1e-3 of their size (the rule of thumb of CS231n for a good
# learning rate): a layer that gets 1e-4 of the others' share is rounded away. The inverse for growth.
NEGLIGIBLE = 1e-4
# Two layers of a kind differ by a factor for many reasons; decay with depth needs depth.
DEPTH = 6
# Half of a layer. CS231n calls 40 % dead the mark of a too high learning rate; small layers lose some by chance.
IDLE = 0.5
# A range test stops at four times the best loss (Smith, arXiv:1506.01186, as used in practice).
BLOW_UP = 4.0
# A mean over many batches at twice the loss of a guess: worse than knowing nothing.
WORSE_THAN_GUESSING = 2.0
# Ten times the way gives ten times the gain on a straight slope, less than one and a half times near a minimum of a
# parabola passed by the tenth step: half of ten says straight.
FARTHER, STRAIGHT = 10.0, 5.0
# Prechelt (Early stopping - but when?, 1998) stops at a generalization loss of 5 %; twice that, on a median of three.
GENERALIZATION_LOSS = 0.1


@dataclasses.dataclass(frozen=True)
class Breakdown:
    """Where numbers stopped being finite.

    Attributes:
        step: steps done when it was noticed.
        where: `"data"`, `"forward"`, `"loss"`, `"gradient"`, `"weights"` (these alone) or `"unknown"`.
        layer: the first layer that made one.
        after: the last step at which all was finite; None where the model began like this.
    """

    step: int
    where: str
    layer: str | None = None
    after: int | None = None


@dataclasses.dataclass
class Record:
    """What was seen of a run so far.

    Attributes:
        probes: in order; the first before any step, where it could be.
        losses: (step, mean training loss since the entry before).
        epochs: (step, training loss, validation loss or None).
        guess: loss of the best constant answer, the entropy of the labels' frequencies; None where it is unknown.
        spread: standard deviation of the targets of a regression, 1 for classes.
        settled: steps until batch norm's moving statistics have forgotten 99 % of where they began; validation losses
            before that say nothing.
        farther: looks at (step, loss now, loss at ten times the way from the first weights), on the kept batch.
        breakdown: None while all is finite.
    """

    probes: list[Figures] = dataclasses.field(default_factory=list)
    losses: list[tuple[int, float]] = dataclasses.field(default_factory=list)
    epochs: list[tuple[int, float, float | None]] = dataclasses.field(default_factory=list)
    guess: float | None = None
    spread: float = 1.0
    settled: float = 0.0
    farther: list[tuple[int, float, float]] = dataclasses.field(default_factory=list)
    breakdown: Breakdown | None = None

    @property
    def scale(self) -> float | None:
        """A loss to compare others with: before training, or of a guess if that is more."""
        start = self.probes[0].loss if self.probes else self.losses[0][1] if self.losses else math.nan
        known = [abs(v) for v in (start, self.guess) if v is not None and math.isfinite(v)]
        return max(known, default=None)


def broken(record: Record) -> Finding | None:
    """NaN or infinity, with the first layer that made it."""
    seen = record.breakdown
    if seen is None:
        return None
    since = "before the first step" if seen.after is None else f"between step {seen.after} and step {seen.step}"
    advice: tuple[str, ...] = (
        "look at the values that go in: an input of log, sqrt or a division that can be zero or negative needs "
        "keras.ops.maximum(x, epsilon)",
    )
    if seen.where == "data":
        message, advice = "the data given hold NaN or infinity.", ("clean them: numpy.nan_to_num, or leave rows out",)
    elif seen.where == "forward":
        message = f"the first output that is not finite is that of `{seen.layer}`, {since}."
    elif seen.where == "loss":
        message = f"all layers are finite, the loss is not, {since}."
        advice = ("give the loss logits (from_logits=True) instead of probabilities of 0 or 1; check the labels",)
    elif seen.where == "gradient":
        message = f"outputs are finite, the gradient of `{seen.layer}` is not, {since}."
        advice = ("sqrt and norm have no gradient at zero: add an epsilon inside", *advice)
    else:
        message = f"numbers stopped being finite {since}; the kept batch does not show where."
        advice = (
            "a smaller learning rate: callbacks.LearningRateFinder suggests one; schedules.Warmup for the first steps",
            "clipping: the optimizer's `global_clipnorm=1.0`",
            "look for NaN in the data: one batch that holds one is enough",
        )
    return Finding("nan", message, advice, seen.layer, seen.step)


def exploding(record: Record) -> Finding | None:
    """A change of a layer's weights by their own size would move the outputs by more than 1e4 (in units of the targets'
    spread, a logit for classes): `||dL/dw|| ||w|| / mean ||dL/dy|| > 1e4` in the median of a third of the layers."""
    for f in record.probes:
        if f.broken or not f.output_gradient > 0:
            continue
        parts = [_reach(part, f, record) for part in _thirds(f)]
        if not parts or not max(parts) > 1 / NEGLIGIBLE:
            continue
        chain = list(f.layers)
        layer = max(chain, key=lambda p: _size(f.layers[p]))
        signals = [x.signal for x in f.layers.values() if math.isfinite(x.signal)]
        growth = signals[-1] / signals[0] if signals and signals[0] > 0 else math.nan
        message = (
            f"changing the weights by 1 % of their size would move the outputs by {max(parts) / 100:.1e}; from the "
            f"first to the last of {len(chain)} layers the signal grows {growth:.1e} times."
        )
        advice = (
            "initial weights of the right size: initializers.LSUV(model, data), HeNormal before ReLU, GlorotUniform "
            "before tanh; initializers.describe(model, data) shows the growth",
            "keras.layers.BatchNormalization or LayerNormalization between layers",
            "clipping: the optimizer's `global_clipnorm=1.0` (helps against spikes, not against wrong weights)",
        )
        return Finding("exploding_gradients", message, advice, layer, f.step, {"reach": max(parts), "growth": growth})
    return None


def vanishing(record: Record) -> Finding | None:
    """The first third of the layers gets less than 1e-4 of what the last third gets (medians of `||dL/dw|| ||w||`), or
    the signal shrinks by as much on its way and the outputs hardly react to the first third. Twice in a row."""
    pairs = [_fading(f, record) for f in record.probes]
    run = 0  # of probes at the end: a layer that begins at zero comes to life
    while run < len(pairs) and pairs[-1 - run] is not None:
        run += 1
    fading = pairs[-run] if run >= 2 else None
    if fading is None:
        return None
    gradient, signal = fading
    f = record.probes[-run]
    first = next(iter(f.layers))
    factor = max(gradient, 1e-45) ** (1.5 / len(f.layers))
    message = f"over {len(f.layers)} layers, the first third gets {gradient:.1e} of the last third's gradient"
    message += f" (a factor of {factor:.2g} a layer)" if gradient < NEGLIGIBLE else ""
    message += f"; the signal shrinks to {signal:.1e} on its way." if signal < NEGLIGIBLE else "."
    advice = (
        "ReLU (or GELU) instead of sigmoid or tanh, with HeNormal",
        "shortcuts (keras.layers.Add), and BatchNormalization or LayerNormalization between layers",
        "initial weights of the right size: initializers.LSUV(model, data); initializers.describe shows the decay",
    )
    return Finding(
        "vanishing_gradients", message, advice, first, f.step, {"gradient_ratio": gradient, "signal_ratio": signal}
    )


def _fading(f: Figures, record: Record) -> tuple[float, float] | None:
    """(gradient, signal) of first to last thirds if they vanish, None otherwise."""
    thirds = _thirds(f)
    if not thirds or len(f.layers) < DEPTH or f.broken or not f.output_gradient > 0:
        return None
    first, _, last = (statistics.median(_size(x) for x in part) for part in thirds)
    signals = [[x.signal for x in part if math.isfinite(x.signal)] for part in thirds]
    early, late = (statistics.median(part) if part else math.nan for part in (signals[0], signals[2]))
    gradient = first / last if last > 0 else (0.0 if first == 0 else 1.0)
    signal = late / early if early > 0 else math.nan
    if not (math.isfinite(first) and math.isfinite(last)):
        return None
    blocked = last > 0 and gradient < NEGLIGIBLE
    faint = signal < NEGLIGIBLE and _reach(thirds[0], f, record) < NEGLIGIBLE
    return (gradient, signal) if blocked or faint else None


def dead(record: Record) -> Finding | None:
    """Half of a layer's rectified units are zero for every sample, in the last two probes."""
    return _idle(
        record,
        "dead",
        "dead_units",
        "are zero for every sample: no gradient reaches them any more",
        (
            "a smaller learning rate, or schedules.Warmup: one large step can push biases below all inputs",
            "initial biases of zero and HeNormal kernels; initializers.LSUV(model, data)",
            "LeakyReLU, ELU or GELU instead of ReLU; BatchNormalization before it",
        ),
    )


def saturated(record: Record) -> Finding | None:
    """Half of a layer's sigmoid or tanh units are within 1 % of an end for every sample, in the last two probes."""
    return _idle(
        record,
        "saturated",
        "saturated_units",
        "are at an end of their range for every sample: hardly any gradient passes",
        (
            "inputs scaled to mean 0 and variance 1: keras.layers.Normalization",
            "smaller initial weights: GlorotUniform, initializers.LSUV(model, data)",
            "BatchNormalization before the activation, or ReLU in its place",
        ),
    )


def _idle(record: Record, kind: str, symptom: str, text: str, advice: tuple[str, ...]) -> Finding | None:
    if len(record.probes) < 2 or record.breakdown is not None:
        return None
    before, now = (getattr(f, kind) for f in record.probes[-2:])
    layers = [path for path in now if min(now[path], before.get(path, 0.0)) >= IDLE]
    if not layers:
        return None
    first = layers[0]
    more = f" (and of {len(layers) - 1} layers after it)" if len(layers) > 1 else ""
    message = f"{now[first]:.0%} of the units of `{first}`{more} {text}."
    figures = {"share": now[first], "layers": float(len(layers))}
    return Finding(symptom, message, advice, first, record.probes[-1].step, figures)


def too_high(record: Record) -> Finding | None:
    """The loss goes beyond four times the one before training (or of a guess), stays beyond twice that, jumps up by a
    fifth of it again and again, or is no better than that while units that were alive have died."""
    scale = record.scale
    if not scale or not record.losses:
        return None
    seen = [(step, loss) for step, loss in record.losses if step > 0] + [(f.step, f.loss) for f in record.probes[1:]]
    highest = max(((loss, step) for step, loss in seen if math.isfinite(loss)), default=None)
    blocks = _blocks(record)
    worse = [i for i in range(1, len(blocks)) if min(blocks[i][1], blocks[i - 1][1]) > WORSE_THAN_GUESSING * scale]
    late = [loss for _, loss in blocks[len(blocks) // 2 :]]
    jumps = [b - a > 0.2 * scale for a, b in itertools.pairwise(late)]
    # Nothing but steps kills units that were alive, and in healthy runs what is left of a layer learns.
    killed = [] if dead(record) is None or not blocks or blocks[-1][1] < 0.95 * scale else [
        path for path, share in record.probes[-1].dead.items() if share >= IDLE > record.probes[0].dead.get(path, 1.0)
    ]  # fmt: skip
    rate = next((f.learning_rate for f in reversed(record.probes) if f.learning_rate is not None), None)
    figures = {"scale": scale} | ({} if rate is None else {"learning_rate": rate})
    if highest is not None and highest[0] > BLOW_UP * scale:
        message, step = f"the loss rose to {highest[0]:.3g}, from {scale:.3g} before training.", highest[1]
        figures["highest"] = highest[0]
    elif worse:
        loss, step = blocks[worse[0]][1], blocks[worse[0]][0]
        message = f"the loss stays at {loss:.3g}, where a guess has {scale:.3g}."
        figures["highest"] = loss
    elif len(jumps) >= 6 and sum(jumps) >= len(jumps) / 4:
        message = f"the loss oscillates: {sum(jumps)} of {len(jumps)} times it rose by a fifth of {scale:.3g} or more."
        step, figures["jumps"] = blocks[-1][0], float(sum(jumps))
    elif killed:
        step = record.probes[-1].step
        message = f"units of `{killed[0]}` died on the way, and the loss is {blocks[-1][1]:.3g}, as before training."
    else:
        return None
    message += "" if rate is None else f" The learning rate is {rate:.3g}."
    advice = (
        "a learning rate 10 times smaller; callbacks.LearningRateFinder suggests one",
        "schedules.Warmup, if only the first steps are wild",
        "clipping: the optimizer's `global_clipnorm=1.0`; a larger batch, callbacks.AdaptiveBatchSize",
    )
    return Finding("learning_rate_too_high", message, advice, None, step, figures)


def too_low(record: Record) -> Finding | None:
    """Ten times the way that the weights have come would lower the loss at least five times as much: all of training so
    far lies on a straight slope. Or it would take a further tenth of the first loss off one that is still above half of
    it. A run whose steps have the size of the valley that they are in is thrown out of it by going ten times as far.
    """
    # A look back at half of the run counts while the loss is still high: farther on, the same slope may have bent.
    looks = [look for look in record.farther[:-1] if _high(record.farther[-1][1], record)] + record.farther[-1:]
    straight = [look for look in looks if record.probes and _straight(look, record)]
    if not straight:
        return None
    step, now, then = straight[-1]
    start = record.probes[0].loss
    rate = record.probes[-1].learning_rate
    message = (
        f"in {step:,} steps the loss of the kept batch fell from {start:.4g} to {now:.4g}; ten times as far in the "
        f"same direction it is {then:.4g}." + ("" if rate is None else f" The learning rate is {rate:.3g}.")
    )
    advice = (
        "a learning rate 10 times larger; callbacks.LearningRateFinder suggests one",
        "optimizers.Adam or momentum, where it is plain gradient descent; schedules.OneCycle",
    )
    figures = {"start": start, "now": now, "farther": then} | ({} if rate is None else {"learning_rate": rate})
    return Finding("learning_rate_too_low", message, advice, None, step, figures)


def _straight(look: tuple[int, float, float], record: Record) -> bool:
    start = record.probes[0].loss
    gain, farther, more = start - look[1], start - look[2], look[1] - look[2]
    high = _high(look[1], record)
    if gain > 1e-4 * abs(start) and farther >= STRAIGHT * gain and (high or farther >= 0.1 * abs(start)):
        return True
    # A loss cannot fall below its floor: where much is gained already, a tenth of the scale more counts as well.
    scale = record.scale
    return high and gain > 0 and scale is not None and more >= 0.1 * scale


def _high(loss: float, record: Record) -> bool:
    return loss > 0.5 * (record.scale or math.inf)


def overfitting(record: Record) -> Finding | None:
    """The validation loss (median of the last three epochs) is a tenth above its least while the training loss fell on,
    and both are apart by a tenth of a guess's loss."""
    rows = [(s, t, v) for s, t, v in record.epochs if v is not None and math.isfinite(t) and math.isfinite(v)]
    rows = [row for row in rows if row[0] >= record.settled]
    scale = record.scale
    if len(rows) < 4 or not scale:
        return None
    best = min(range(len(rows)), key=lambda i: rows[i][2])
    least = rows[best][2]
    now, train = (statistics.median(row[i] for row in rows[-3:]) for i in (2, 1))
    rise = now - least
    learned = train < rows[max(best, 0)][1] and train < 0.9 * scale
    if not (
        best < len(rows) - 2 and rise >= max(GENERALIZATION_LOSS * abs(least), 0.05 * scale)
        and learned and now - train >= 0.1 * scale
    ):  # fmt: skip
        return None
    never = least > 0.95 * scale
    message = (
        f"the training loss fell to {train:.3g} while the validation loss rose from {least:.3g} (epoch {best + 1}) "
        f"to {now:.3g}." + (" It was never better than a guess." if never else "")
    )
    advice = (
        *(("check that labels belong to their samples: nothing learned carries over",) if never else ()),
        f"stop at epoch {best + 1}: keras.callbacks.EarlyStopping(restore_best_weights=True)",
        "more data, or augmentation: keras.layers.RandomFlip, RandomTranslation, RandAugment",
        "layers.DropBlock2D, layers.StochasticDepth or Dropout; regularizers.L2, or the optimizer's `weight_decay`",
        "a smaller model: regularizers.GroupLasso or BatchNormScale, then surgery.shrink",
    )
    figures = {"train": train, "validation": now, "least": least, "best_epoch": float(best + 1)}
    return Finding("overfitting", message, advice, None, rows[best][0], figures)


def plateau(record: Record) -> Finding | None:
    """In the second half of the run the loss changed by less than 1 %, and is above half of what it began with."""
    scale, blocks = record.scale, _blocks(record)
    if not scale or len(blocks) < 8:
        return None
    half = [loss for _, loss in blocks[len(blocks) // 2 :]]
    middle = len(half) // 2
    earlier, later = statistics.fmean(half[:middle]), statistics.fmean(half[middle:])
    if not (later > 0.5 * scale and abs(earlier - later) < 0.01 * scale):
        return None
    message = f"the loss stays at {later:.3g}; it was {scale:.3g} before training."
    advice = (
        "another learning rate: callbacks.LearningRateFinder; keras.callbacks.ReduceLROnPlateau if it once fell",
        "inputs scaled to mean 0 and variance 1: keras.layers.Normalization; check that labels belong to their samples",
        "a wider or deeper model: surgery.widen, surgery.deepen",
    )
    return Finding("plateau", message, advice, None, blocks[len(blocks) // 2][0], {"loss": later, "scale": scale})


def _thirds(f: Figures) -> list[list[LayerFigures]]:
    layers = list(f.layers.values())
    third = max(len(layers) // 3, 1)
    return [layers[:third], layers[third:-third] or layers[:third], layers[-third:]] if layers else []


def _size(layer: LayerFigures) -> float:
    """`||dL/dw|| ||w||`: the loss's reaction to a relative change. It does not depend on how the weights of layers in a
    row, or before a batch norm, are scaled against each other."""
    return layer.gradient * layer.weight


def _reach(part: Sequence[LayerFigures], f: Figures, record: Record) -> float:
    """How far a change of weights by their own size moves the outputs, in units of the targets."""
    return statistics.median(map(_size, part)) / f.output_gradient / record.spread


def _blocks(record: Record, steps: int = 10) -> list[tuple[int, float]]:
    """Means of the training loss over at least ten steps each, as (last step, mean)."""
    blocks, total, begun, last = [], 0.0, 0, 0
    for step, loss in record.losses:
        if not math.isfinite(loss):
            continue
        total, last = total + loss * (step - last), step
        if step - begun >= steps:
            blocks.append((step, total / (step - begun)))
            total, begun = 0.0, step
    return blocks
