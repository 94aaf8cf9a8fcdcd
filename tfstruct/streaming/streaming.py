"""`to_streaming`: a model of whole sequences as one of a few frames a call, with states."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import keras
import numpy as np

from tfstruct.arguments import checked, require_count, require_texts
from tfstruct.errors import TfstructError
from tfstruct.graph import open_and_trace
from tfstruct.graph.differences import largest_gap, largest_magnitude
from tfstruct.streaming.building import built, time_axes, with_window
from tfstruct.streaming.report import Streaming, StreamingReport
from tfstruct.streaming.running import over_sequences
from tfstruct.streaming.whole import Whole

_MOST_CALLS = 1000  # of a comparison
_MORE = 8  # calls that are compared, from the first right one on
_ALLOWED = 1e-4  # of the largest magnitude: rounding of float32


@checked
def to_streaming(
    model: keras.Model,
    hop: int | None = None,
    *,
    window: int | None = None,
    frames: Collection[str] | None = None,
    time_axis: int | Mapping[str, int] = 1,
    windows: str | Collection[str] = (),
    exact_start: bool = True,
    open_layers: str | bool = "auto",
) -> Streaming:
    """Makes a model of whole sequences one that takes a few frames a call, and hands its states on to the next call.

        streaming = tfstruct.to_streaming(model)
        tfstruct.to_tflite(streaming, "int8", calibration=sequences).save("streaming.tflite")

    It computes each frame once. A convolution or pooling over time holds the frames before the present ones; a
    recurrent layer its state; what looks at all frames together (a global pooling, a Flatten) a window of them, and is
    computed anew in each call. With lookahead, as `padding="same"` has it, outputs come later: `report` says by how
    many frames. The new model is compared with the original on random frames.

    A stream has one start: the zeros of `padding="causal"` and `"same"` stand before its first frame, and nowhere else.
    So where a model pads over time and looks at a window, the outputs are those of its layers run over the whole stream
    (`Streaming.whole`), not those of the model on each window cut out by itself. Where it pads nothing over time the
    two are the same. A stream has no end: what a padding puts behind the last frame never comes.

    Args:
        model: Sequential or functional; nested models and custom layers are opened. It is not changed.
        hop: frames of the longest input that a call takes, a multiple of the strides; by default as few as can be.
        window: for a model that leaves the number of frames open and looks at all of them together: how many it shall
            look at. Without, a mean is that of all frames since the start.
        frames: names of the inputs that come frame by frame; the others are given whole in each call. By default those
            with an axis beside batch and features, or all where none has one.
        time_axis: with the batch axis as 0, where the frames of the inputs are; one for all, or by name.
        windows: patterns of layers that look at the last window anew in each call, such as an attention: so does all
            behind them. For what else cannot stream.
        exact_start: set frames from before the start to zero where layers pad. It takes a product for each padding with
            lookahead; without, the first outputs differ.
        open_layers: see `tfstruct.surgery.open_layers`.

    Returns:
        `Streaming`: `.model`, `.report`; `start()` for calls one by one, `run(sequences)`.

    Raises:
        ModelError: a layer that cannot stream, with its name and why.
        ArgumentError: a name that is none, or a hop that does not fit.

    Source: Rybakov et al. 2020, "Streaming keyword spotting on mobile devices", arXiv:2005.06720.

    Example:
        >>> sound = keras.Input((50, 10), name="sound")
        >>> heard = keras.layers.Conv1D(8, 5, strides=2, activation="relu", name="heard")(sound)
        >>> word = keras.layers.Dense(3, name="word")(keras.layers.GlobalAveragePooling1D(name="mean")(heard))
        >>> spotter = keras.Model(sound, word)
        >>> streaming = tfstruct.to_streaming(spotter)
        >>> [(state.input, state.shape) for state in streaming.plan.states]
        [('heard_state', (4, 10)), ('mean_state', (22, 8))]
        >>> sounds = np.random.default_rng(0).normal(size=(1, 60, 10)).astype("float32")
        >>> words = streaming.run(sounds)  # one a hop of 2 frames, from the 50th frame on
        >>> words.shape, bool(np.allclose(words[:, 3], spotter(sounds[:, 6:56]), atol=1e-5))
        ((1, 6, 3), True)
    """
    if hop is not None:
        require_count("hop", hop)
    if window is not None:
        require_count("window", window)
    anew = require_texts("windows", windows)
    axes = time_axes(model, frames, time_axis)
    graph = open_and_trace(model, with_window(model, axes, window), open_layers)
    made = built(graph, axes, hop, anew, exact_start)
    names = [out.name for out in made.plan.outputs]
    whole = Whole(graph, made.made, made.anew, made.plan.hop, made.flow.frames)

    def of_whole(sequences: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        found = whole.outputs(sequences, made.inputs)
        counts = [x.axis for x in made.plan.outputs]
        return {
            name: value if axis is not None else value[None]
            for name, value, axis in zip(names, found, counts, strict=True)
        }

    remarks = tuple((what, tuple(paths)) for what, paths in made.flow.notes.items())
    report = StreamingReport(
        model.name, made.plan, made.flow.frames, None, "", remarks, opened=graph.opened, opaque=graph.opaque
    )
    streaming = Streaming(made.model, report, of_whole)
    difference, compared = _difference(streaming) if exact_start else (None, "not compared, as its start is not exact")
    return dataclasses.replace(streaming, report=dataclasses.replace(report, difference=difference, compared=compared))


def _difference(streaming: Streaming) -> tuple[float | None, str]:
    """How far the model is from that of whole sequences on random frames, and on what that was found.

    Raises:
        TfstructError: further than rounding explains.
    """
    plan, total = streaming.plan, streaming.report.window
    wait = max((out.wait for out in plan.outputs), default=0)
    longest = max((state.shape[0] for state in plan.states if len(state.shape) > 1), default=0)
    count = wait + (_MORE + longest) * plan.hop
    if total is not None:  # of as many frames beyond whole hops as a window has: paddings go by that
        count = total + max(-(-(count - total) // plan.hop), 0) * plan.hop
    if count // plan.hop > _MOST_CALLS:
        return None, f"not compared, as that takes {count // plan.hop:,} calls"
    rng = np.random.default_rng(0)
    given = {}
    for x in plan.inputs:
        shape = list(x.shape)
        if x.frames is not None:
            shape[x.axis - 1] = count * x.frames // plan.hop
        values = rng.normal(size=shape) if "float" in x.dtype else rng.integers(0, 2, shape)
        given[x.name] = values[None].astype(x.dtype)
    ours = over_sequences(streaming.start(), given)
    truth = streaming.whole_outputs([given[x.name] for x in plan.inputs])
    most = 0.0
    for out in plan.outputs:
        axis = 1 if out.axis is None else out.axis
        got, wanted = ours[out.name], truth[out.name]
        frames = min(got.shape[axis], wanted.shape[axis])
        gap = largest_gap(*(np.take(x, range(frames), axis).astype("float64") for x in (wanted, got)))
        most = max(most, gap / max(largest_magnitude([wanted.astype("float64")]), 1e-30) if gap else 0.0)
    if most > _ALLOWED:
        raise TfstructError(
            f"The streaming model of `{streaming.report.name}` differs from it by {most:.1e} of an output's largest "
            "magnitude. It is not handed out; please report this as a bug of tfstruct."
        )
    return most, f"on {count:,} random frames"
