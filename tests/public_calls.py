"""Public calls with arguments that they take: a row each, of the rooms in `ROOMS`; a new public name there adds one.

`GOOD` maps "room.name" to what makes the arguments; what is left out has a default. `USES` says what is done with what
a class made, where it looks at its arguments only then.
"""

import importlib
import inspect
import os
import tempfile
from collections.abc import Callable

import keras
import numpy as np

L = keras.layers
ROOMS = (
    "augment", "callbacks", "distill", "layers", "quantize", "regularizers", "samples", "schedules", "streaming",
    "surgery",
)  # fmt: skip
X = np.random.default_rng(0).normal(size=(24, 8)).astype("float32")
Y = np.arange(24) % 2
IDS = np.arange(24).reshape(4, 6) % 10

# What calls hand back and only they make, and what programs subclass: no user fills in their arguments.
MADE_BY_CALLS = {
    "augment": set(),
    "callbacks": {
        "ChannelReport", "ClusterReport", "QuantizationReport", "SparsityReport", "RangeTest", "Diagnosis", "Finding",
        "Compressor",
    },
    "distill": {"DistillationReport", "Taught", "TeacherTargets"},
    "layers": {"Distribution"},
    "quantize": set(),
    "regularizers": set(),
    "samples": {"Batch", "Sample", "Samples"},
    "schedules": {"RatioSchedule"},
    "streaming": {"Streaming", "StreamingReport", "StreamPlan", "Stream"},
    "surgery": {
        "ShrinkReport", "EditReport", "Bottlenecks", "OpeningReport", "ClosingReport", "VocabularyReport",
        "SharingSuggestion",
    },
}  # fmt: skip


def public(room: str) -> dict[str, Callable]:
    """The functions and classes of a room that are ours."""
    module = importlib.import_module(f"tfstruct.{room}")
    every = {name: getattr(module, name) for name in module.__all__}
    return {
        name: value
        for name, value in every.items()
        if callable(value) and value.__module__.startswith("tfstruct") and name not in MADE_BY_CALLS[room]
    }


def names() -> list[str]:
    return [f"{room}.{name}" for room in ROOMS for name in public(room)]


def arguments(name: str) -> list[str]:
    """The arguments of a public call that have a name."""
    room, _, own = name.partition(".")
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in inspect.signature(public(room)[own]).parameters.values() if p.kind not in kinds]


def dense(width: int = 8) -> keras.Model:
    keras.utils.set_random_seed(0)
    x = keras.Input((8,), name="x")
    model = keras.Model(x, L.Dense(2, name="head")(L.Dense(width, "relu", name="hidden")(x)), name="dense")
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    return model


def residual() -> keras.Model:
    keras.utils.set_random_seed(0)
    x = keras.Input((6, 6, 2), name="x")
    y = L.Conv2D(4, 3, padding="same", name="stem")(x)
    z = L.BatchNormalization(name="norm")(L.Conv2D(4, 3, padding="same", use_bias=False, name="branch")(y))
    y = L.Add(name="sum")([y, z])
    y = L.Conv2D(4, 3, strides=2, padding="same", name="down")(y)
    return keras.Model(x, L.Dense(2, name="head")(L.GlobalAveragePooling2D(name="pool")(y)), name="residual")


def words() -> keras.Model:
    keras.utils.set_random_seed(0)
    x = keras.Input((6,), dtype="int32", name="ids")
    return keras.Model(x, L.Dense(2, name="head")(L.GlobalAveragePooling1D()(L.Embedding(10, 4, name="table")(x))))


def sequence() -> keras.Model:
    keras.utils.set_random_seed(0)
    x = keras.Input((16, 3), name="x")
    return keras.Model(x, L.Dense(2, name="head")(L.GRU(4, return_sequences=True, name="gru")(x)), name="sequence")


def pictures(count: int = 8) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 6, 6, 2)).astype("float32")


def _plan():
    import tfstruct

    return tfstruct.plan_channels(dense(), "macs=60%")


def _lora() -> keras.Model:
    model = dense()
    model.get_layer("hidden").enable_lora(2)
    return model


def _twin():
    from tfstruct import quantize

    return quantize.calibrate(dense(), X)


def _dropping() -> keras.Model:
    from tfstruct import layers

    x = keras.Input((8,))
    return keras.Model(x, layers.MonteCarloDropout(0.3)(L.Dense(4)(x)))


def _twice() -> keras.Model:
    x = keras.Input((8,))
    return keras.Model(x, L.Dense(8, name="two")(L.Dense(8, name="one")(x)))


def _ratio():
    from tfstruct.schedules import ConstantRatio

    return ConstantRatio(0.5)


def _folder(name: str) -> str:
    return os.path.join(tempfile.mkdtemp(prefix="tfstruct-test-"), name)


def _regularized() -> keras.Model:
    from tfstruct import regularizers

    model = dense()
    regularizers.apply(model, regularizers.GroupLasso())
    return model


def _penalty():
    from tfstruct.regularizers import GroupLasso

    return GroupLasso()


def _decay():
    from tfstruct.schedules import LinearDecay

    return LinearDecay(**SLOPE)


def _spec():
    from tfstruct.samples import TensorSpec

    return TensorSpec("x", (8,), "float32")


SLOPE = {"initial_learning_rate": 0.1, "decay_steps": 10}
PLATEAU = {"learning_rate": 0.1, "warmup_steps": 2, "stable_steps": 2, "decay_steps": 2}
MODEL = lambda: {"model": dense()}  # noqa: E731
SMALL = lambda: {"model": dense(), "data": X[:8], "verbose": 0}  # noqa: E731
CONV = lambda: {"model": residual()}  # noqa: E731
CURVE = {"initial": 0.0, "final": 0.5, "begin": 0, "end": 10}

GOOD: dict[str, Callable[[], dict]] = {
    "augment.Choice": lambda: {"changes": [L.RandomFlip()]},
    "augment.Draws": lambda: {"seed": 0},
    "augment.Mix": lambda: {"classes": 2},
    "augment.Pipeline": lambda: {"changes": [L.RandomFlip()]},
    "augment.audio": dict,
    "augment.images": lambda: {"classes": 2},
    "augment.sequences": dict,
    "augment.spectrograms": dict,
    "augment.text": lambda: {"unknown": 1},
    "callbacks.Cluster": lambda: {"n_clusters": 4},
    "callbacks.release": MODEL,
    "callbacks.Prune": lambda: {"schedule": _ratio()},
    "callbacks.QuantizeAware": dict,
    "callbacks.PruneChannels": lambda: {"budget": "macs=80%", "schedule": _ratio()},
    "callbacks.AdaptiveBatchSize": lambda: {"initial": 4, "maximum": 8},
    "callbacks.LearningRateFinder": lambda: {"steps": 10},
    "callbacks.Diagnose": lambda: {"verbose": 0},
    "distill.Attention": lambda: {"layers": {"hidden": "hidden"}},
    "distill.Distill": lambda: {"teacher": dense(4)},
    "distill.Features": dict,
    "distill.Logits": dict,
    "distill.Relational": dict,
    "distill.cached": lambda: {"teacher": dense(), "data": X, "path": _folder("cache")},
    "layers.ConcreteDropout": lambda: {"layer": L.Dense(4)},
    "layers.DropBlock1D": lambda: {"rate": 0.1},
    "layers.DropBlock2D": lambda: {"rate": 0.1},
    "layers.DropConnect": lambda: {"layer": L.Dense(4), "rate": 0.1},
    "layers.HardConcrete": lambda: {"penalty": 0.1},
    "layers.MonteCarloDropout": lambda: {"rate": 0.1},
    "layers.ScheduledDropout": lambda: {"rate": 0.1},
    "layers.StochasticDepth": lambda: {"rate": 0.1},
    "layers.TargetedDropout": lambda: {"layer": L.Dense(4), "rate": 0.1},
    "layers.VariationalDropout": lambda: {"layer": L.Dense(4), "kl_weight": 0.1},
    "layers.finalize": lambda: {"model": _dropping()},
    "layers.predict_distribution": lambda: {"model": _dropping(), "x": X[:4], "passes": 2},
    "quantize.Scheme": dict,
    "quantize.Twin": MODEL,
    "quantize.dequantize": lambda: {"twin": _twin()},
    "quantize.calibrate": SMALL,
    "quantize.equalize": MODEL,
    "quantize.correct_bias": SMALL,
    "quantize.sensitivity": lambda: {**SMALL(), "schemes": ("int8",)},
    "quantize.mixed_precision": lambda: {**SMALL(), "budget": "tflite_bytes=100%"},
    "quantize.adaround": lambda: {**SMALL(), "steps": 2},
    "quantize.blockwise": lambda: {**SMALL(), "steps": 2},
    "regularizers.GroupLasso": dict,
    "regularizers.BatchNormScale": dict,
    "regularizers.HoyerSquare": dict,
    "regularizers.Entropy": dict,
    "regularizers.Orthogonal": dict,
    "regularizers.apply": lambda: {"model": dense(), "regularizer": _penalty()},
    "regularizers.remove": lambda: {"model": _regularized()},
    "samples.Preprocess": dict,
    "samples.TensorSpec": lambda: {"name": "x", "shape": (8,), "dtype": "float32"},
    "samples.open_samples": lambda: {"source": X, "inputs": (_spec(),)},
    "samples.require_numbers": lambda: {"inputs": (_spec(),)},
    "schedules.ConstantRatio": lambda: {"ratio": 0.5},
    "schedules.OneShot": lambda: {"ratio": 0.5},
    "schedules.PolynomialRatio": lambda: CURVE,
    "schedules.CosineRatio": lambda: CURVE,
    "schedules.Iterative": lambda: {"final": 0.5, "rounds": 2, "recover": 2},
    "schedules.AutomaticRatio": lambda: {"final": 0.5, "begin": 0, "end": 10},
    "schedules.StepDecay": lambda: {"initial_learning_rate": 0.1, "steps": [3]},
    "schedules.LinearDecay": lambda: SLOPE,
    "schedules.WarmupStableDecay": lambda: PLATEAU,
    "schedules.OneCycle": lambda: {"max_learning_rate": 0.1, "steps": 10},
    "schedules.Cyclical": lambda: {"low": 0.1, "high": 0.2, "half_cycle": 5},
    "schedules.Warmup": lambda: {"schedule": 0.1, "steps": 5},
    "schedules.Sequence": lambda: {"schedules": [0.1, 0.2], "boundaries": [5]},
    "schedules.plot": lambda: {"schedule": _decay(), "steps": 5, "path": _folder("p.svg")},
    "streaming.to_streaming": lambda: {"model": sequence()},
    "surgery.Plan": lambda: {"model": "x", "keep": {"hidden": [0, 1]}, "widths": {"hidden": 8}},
    "surgery.plan_channels": lambda: {"model": dense(), "budget": "macs=60%"},
    "surgery.apply": lambda: {"model": dense(), "plan": _plan()},
    "surgery.recalibrate_batch_norm": lambda: {"model": residual(), "data": pictures()},
    "surgery.shrink": MODEL,
    "surgery.widen": lambda: {"model": dense(), "layer": "hidden", "to": 12},
    "surgery.deepen": lambda: {"model": dense(), "after": "hidden"},
    "surgery.analyze_bottlenecks": MODEL,
    "surgery.open_layers": MODEL,
    "surgery.close_layers": MODEL,
    "surgery.prune_vocabulary": lambda: {"model": words(), "data": IDS},
    "surgery.remove_redundant": MODEL,
    "surgery.drop_blocks": lambda: {"model": residual(), "data": pictures(), "count": 1},
    "surgery.downsample_early": CONV,
    "surgery.residual_blocks": CONV,
    "surgery.delete_layer": lambda: {"model": _twice(), "layer": "one"},
    "surgery.delete_layers": lambda: {"model": _twice(), "which": "one"},
    "surgery.insert_layer": lambda: {"model": dense(), "new_layer": L.ReLU(), "after": "hidden"},
    "surgery.replace_layer": lambda: {"model": dense(), "layer": "hidden", "new_layer": L.Dense(8)},
    "surgery.fold_batch_norm": CONV,
    "surgery.merge_linear": lambda: {"model": _twice()},
    "surgery.merge_parallel": CONV,
    "surgery.merge_lora": lambda: {"model": _lora()},
    "surgery.fuse_activation": MODEL,
    "surgery.optimize_inference": CONV,
    "surgery.factorize": lambda: {"model": dense(16), "rank": 2},
    "surgery.share_layers": lambda: {"model": _twice(), "groups": [["one", "two"]]},
    "surgery.suggest_sharing": lambda: {"model": _twice()},
}  # fmt: skip


def _scheduled(schedule) -> None:
    for step in (0, 1, 5, 100):
        float(schedule(step)) if callable(schedule) else None


def _penalized(regularizer) -> None:
    if isinstance(regularizer, keras.Regularizer):
        shape = (4,) if type(regularizer).__name__ == "BatchNormScale" else (3, 4)
        float(regularizer(keras.ops.ones(shape)))


def _fitted(callback) -> None:
    dense().fit(X, Y, batch_size=8, epochs=4, verbose=0, callbacks=[callback])


def _called(layer) -> None:
    shape = (1, 8, 8, 2) if "2D" in type(layer).__name__ else (1, 8, 2) if "1D" in type(layer).__name__ else (4, 8)
    layer(np.zeros(shape, "float32"), training=True)


def _distill(loss):
    from tfstruct.distill import Distill

    return Distill(dense(), [loss])


def _grown(adaptive) -> None:
    dense().fit(adaptive.data(X, Y), epochs=2, verbose=0, callbacks=[adaptive])


def _mapped(attention) -> None:
    x = keras.ops.ones((2, 4, 4, 3))
    float(attention.compute_loss(x, 2 * x))


def _taught(loss) -> None:
    _fitted(_distill(loss))


USES: dict[str, Callable] = {
    "callbacks": _fitted,
    "callbacks.AdaptiveBatchSize": _grown,
    "distill": _taught,
    "distill.Attention": _mapped,
    "distill.Distill": _fitted,
    "layers": _called,
    "regularizers": _penalized,
    "samples.open_samples": list,
    "schedules": _scheduled,
}


def call(name: str, given: dict):
    """Calls it and uses what it makes."""
    room, _, own = name.partition(".")
    what = public(room)[own]
    made = what(**given)
    use = USES.get(name, USES.get(room) if inspect.isclass(what) else None)
    if use is not None:
        use(made)
    return made
