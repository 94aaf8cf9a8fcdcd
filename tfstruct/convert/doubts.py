"""Why a verification should not be trusted, in words: a file that falls short, and figures that prove nothing."""

import math
from collections.abc import Iterator, Sequence

from tfstruct.convert.agreement import Agreement, Scores
from tfstruct.convert.input_coverage import InputCoverage
from tfstruct.convert.layer_errors import LayerError
from tfstruct.convert.lost_columns import Column, LostColumns

LOW_SQNR_DB, LOW_TOP1 = 15.0, 0.9
# Without labels or probabilities nobody knows whether the last axis holds classes: of values that are good, near ties
# alone change places.
_GOOD_SQNR_DB = 30.0
_LOST_ACCURACY = 0.05
_BELOW_DB = 20.0
_CLIPPED = 0.01
_UNUSED = 0.05
_NAMED = 5


def of_outputs(outputs: Sequence[Agreement], layers: Sequence[LayerError], shows_classes: bool) -> list[str]:
    """The doubts that the agreement of each output raises.

    Args:
        outputs: one agreement an output.
        layers: errors by layer, the greatest loss first, where they are known.
        shows_classes: whether the samples are expected to show all classes.
    """
    lines: list[str] = []
    # What is exact, as a constant is, sets no measure.
    known = [output.sqnr_db for output in outputs if output.equal is None and output.sqnr_db < math.inf]
    best = max(known, default=None)
    for output in outputs:
        low = low_figures(output)
        if low:
            lines.append(f"output {output.name!r}: {' and '.join(low)}{_worst_layers(layers)}")
        lines += _of_values(output, best, bool(low), shows_classes)
        lines += [_columns(output, lost) for lost in output.columns]
    return lines


def low_figures(output: Agreement) -> list[str]:
    """What falls below 15 dB or 90 % of equal top-1 (of equal integers, where it holds some).

    NaN is not low, nor is what is not finite in Keras: nothing can be said of it.
    """
    if output.infinite[0]:
        return []
    if output.equal is not None:
        few = output.equal < LOW_TOP1
        return [f"{output.equal:.1%} of its integers are equal only, expected {LOW_TOP1:.0%} or more"] if few else []
    lines = []
    if output.sqnr_db < LOW_SQNR_DB:
        lines.append(f"SQNR is {output.sqnr_db:.1f} dB, below {LOW_SQNR_DB:g} the file computes something else")
    top1 = output.top1_agreement
    if top1 is not None and top1 < LOW_TOP1 and (output.distribution or output.sqnr_db < _GOOD_SQNR_DB):
        of = "" if output.distribution else " (if its last axis holds classes)"
        lines.append(f"top-1 is equal for {top1:.1%} only{of}, expected {LOW_TOP1:.0%} or more")
    return lines


def _worst_layers(layers: Sequence[LayerError]) -> str:
    lossy = [one for one in layers if one.added_noise > 0][:3]
    worst = [one for one in lossy if not one.in_float]  # those lose by what they read
    if not worst:
        return ""
    lost: dict[str, float] = {}
    for one in worst:
        lost.setdefault(", ".join(one.layers) or one.tensor, one.sqnr_db)  # the worst of a layer's operators
    named = ", ".join(f"{name} ({sqnr:.1f} dB)" for name, sqnr in lost.items())
    return (
        f". Most is lost at {named}: keep those in float (Recipe(layers={{pattern: 'float32'}})) or train them "
        "quantized (QuantizeAware)"
    )


def _of_values(output: Agreement, best: float | None, is_low: bool, shows_classes: bool) -> Iterator[str]:
    for who, share in zip(("Keras", "the file"), output.infinite, strict=True):
        if share:
            yield f"output {output.name!r}: {share:.2%} of the values are NaN or infinite in {who}; nothing is proven"
    if output.constant:
        yield (
            f"output {output.name!r} varies in Keras, and is the same for every sample in the file: keep the layers "
            "that make it in float (Recipe(layers={pattern: 'float32'})), or calibrate on data on which it varies, if "
            "that does not"
        )
    elif (
        best is not None
        and output.equal is None
        and not is_low
        and output.sqnr_db < min(best - _BELOW_DB, _GOOD_SQNR_DB)
    ):
        yield f"output {output.name!r} has {output.sqnr_db:.1f} dB, where another has {best:.1f} dB"
    if not output.varies:
        yield (
            f"output {output.name!r} is the same for every sample in Keras: its figures say nothing about other data; "
            "verify on data on which it varies"
        )
    elif output.distribution and output.classes == 1 and shows_classes:
        yield (
            f"output {output.name!r}: Keras predicts one class for every sample, so equal top-1 says nothing about the "
            "others; verify on data of all classes, shuffled"
        )
    if output.clipped > _CLIPPED:
        yield (
            f"output {output.name!r}: {output.clipped:.1%} of Keras's values lie outside of the file's range and are "
            "clipped: calibrate on data like that it is verified on, with calibrator='minmax'"
        )


def _columns(output: Agreement, lost: LostColumns) -> str:
    axis = "of its last axis" if lost.axis == -1 else f"along axis {lost.axis}"
    shown = lost.columns[:_NAMED] if lost.count > 2 * _NAMED else lost.columns
    named = _runs([column.index for column in shown])
    more = f" and {lost.count - len(shown)} more" if lost.count > len(shown) else ""
    worst = min(c.sqnr_db for c in shown)
    what = "constant in the file" if all(c.constant for c in shown) else f"down to {worst:.1f} dB in the file"
    return (
        f"output {output.name!r}: the columns {named}{more} {axis} ({lost.count} of {lost.size}) {_variation(shown)} "
        f"in Keras and are {what}, where the whole has {output.sqnr_db:.1f} dB. {_remedy(shown)}"
    )


def _variation(columns: Sequence[Column]) -> str:
    low, high = min(c.low for c in columns), max(c.high for c in columns)
    if all(_is_nearly_constant(c) for c in columns):
        most = max(columns, key=lambda c: c.high - c.low)
        return f"vary by {most.high - most.low:.1g} at most (around {(most.low + most.high) / 2:.4g})"
    return f"vary between {low:.3g} and {high:.3g}"


def _remedy(columns: Sequence[Column]) -> str:
    if all(_is_nearly_constant(c) for c in columns):
        return (
            "That is less than two steps of 8 bits, also with a scale of their own. If it matters, take the constant "
            "part out of the model and add it outside of the file, or keep all layers from where they get so alike in "
            "float (Recipe(layers={pattern: 'float32'}))"
        )
    return (
        "One scale holds for all columns: make these an output of their own, or bring all columns to one scale and "
        "undo it outside of the file"
    )


def _is_nearly_constant(column: Column) -> bool:
    """Whether what a column varies by is less than two steps of 8 bits that reach from 0 to its values."""
    return column.high - column.low < max(abs(column.low), abs(column.high)) / 128


def _runs(places: list[int]) -> str:
    """`"0, 4-7"`."""
    runs: list[list[int]] = []
    for place in places:
        if runs and place == runs[-1][1] + 1:
            runs[-1][1] = place
        else:
            runs.append([place, place])
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)


def of_scores(keras: Scores | None, tflite: Scores | None) -> list[str]:
    """The doubt that an accuracy below Keras's raises."""
    ours, theirs = (getattr(scores, "accuracy", None) for scores in (tflite, keras))
    if ours is not None and theirs is not None and ours < theirs - _LOST_ACCURACY:
        return [f"accuracy falls from {theirs:.2%} in Keras to {ours:.2%} in the file"]
    return []


def of_samples(inputs: Sequence[InputCoverage], random: bool, quantized: bool) -> list[str]:
    """The doubts that the samples themselves raise.

    Args:
        inputs: how they use the range of each input.
        random: whether they were drawn at random, for want of data.
        quantized: whether the file computes with integers.
    """
    if random and quantized:
        return [
            "verified on random inputs, for want of data: the figures of an integer file hold for data like that it "
            "will see; give Recipe(verification=...), --verify"
        ]
    lines = []
    for one in inputs:
        low, high = one.range
        if one.is_flag:
            continue
        span = f"they lie in [{one.low:.4g}, {one.high:.4g}], the file's range is [{low:.4g}, {high:.4g}]"
        if one.clipped > _CLIPPED:
            lines.append(
                f"input {one.name!r}: {one.clipped:.1%} of the values of the verification data are clipped: {span}. "
                "Calibrate on data like it, with calibrator='minmax'"
            )
        elif one.high - one.low < _UNUSED * (high - low):
            lines.append(
                f"input {one.name!r}: the verification data uses few of the file's 256 steps: {span}. Is its scale "
                "that of the calibration data?"
            )
    return lines
