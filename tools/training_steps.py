"""What a step of `fit` costs with ours, against a plain one: `python tools/bench.py fit`."""

import statistics
import time
from collections.abc import Callable

STEPS = 100  # timed in each round; masks are chosen anew once in them
LEAD = 5  # steps before the clock starts: tracing, filling of pipelines
BATCH = 64


def fit(rounds: int) -> None:
    """ResNet8 on arrays, batch 64: the time of a step with each callback and optimizer over that of plain `fit`.

    Medians over interleaved rounds in one process. TFMOT's wrappers run on tf_keras, against plain tf_keras.
    """
    from rich.console import Console
    from rich.table import Table

    variants = {**_ours(), **_distilled(), **_tfmot()}
    times: dict[str, list[float]] = {name: [] for name in variants}
    for round_ in range(rounds + 1):
        for name, (_, steps) in variants.items():
            seconds = steps()
            if round_:  # the first one warms up
                times[name].append(seconds)
    table = Table(title=f"a training step of ResNet8, batch {BATCH}, {rounds} interleaved rounds of {STEPS} steps")
    for column in ("variant", "against", "ms a step", "ratio of medians"):
        table.add_column(column, justify="right" if column.startswith(("ms", "ratio")) else "left")
    medians = {name: statistics.median(found) for name, found in times.items()}
    for name, (against, _) in variants.items():
        ratio = f"{medians[name] / medians[against]:.3f}" if against else ""
        table.add_row(name, against, f"{1000 * medians[name]:.2f}", ratio)
    Console().print(table)


def _resnet8(keras):
    """The reference network of MLPerf Tiny, image classification."""
    layers = keras.layers
    inputs = keras.Input((32, 32, 3))

    def convolution(x, width, size=3, stride=1, active=True):
        x = layers.Conv2D(width, size, stride, "same", kernel_regularizer=keras.regularizers.L2(1e-4))(x)
        x = layers.BatchNormalization()(x) if size == 3 else x
        return layers.ReLU()(x) if active else x

    x = convolution(inputs, 16)
    for width, stride in ((16, 1), (32, 2), (64, 2)):
        y = convolution(convolution(x, width, 3, stride), width, active=False)
        x = layers.ReLU()(layers.Add()([y, x if stride == 1 else convolution(x, width, 1, stride, active=False)]))
    x = layers.Flatten()(layers.AveragePooling2D(8)(x))
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


def _data():
    import numpy as np

    rng = np.random.default_rng(0)
    count = BATCH * (STEPS + LEAD)
    return rng.normal(size=(count, 32, 32, 3)).astype("float32"), rng.integers(0, 10, count)


def _timed(keras, model, callbacks: Callable[[], list], data=None) -> Callable[[], float]:
    """Seconds a step, from the end of one to the end of another, so that tracing does not count."""
    x, y = _data() if data is None else (data, None)

    class Clock(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == LEAD - 1:
                self.start = time.perf_counter()
            if batch == LEAD + STEPS - 1:
                self.seconds = (time.perf_counter() - self.start) / STEPS

    def steps() -> float:
        clock = Clock()
        model.fit(
            x, y, batch_size=BATCH if data is None else None, shuffle=False, verbose=0, callbacks=[*callbacks(), clock]
        )
        return clock.seconds

    return steps


def _ours() -> dict[str, tuple[str, Callable[[], float]]]:
    import keras

    from tfstruct import optimizers
    from tfstruct.callbacks import Cluster, Diagnose, Prune, PruneChannels, QuantizeAware
    from tfstruct.schedules import PolynomialRatio

    def variant(callbacks=list, optimizer="adam"):
        keras.utils.set_random_seed(0)
        model = _resnet8(keras)
        model.compile(optimizer, "sparse_categorical_crossentropy", jit_compile=False)
        return _timed(keras, model, callbacks)

    return {
        "plain": ("", variant()),
        "Prune": ("plain", variant(lambda: [Prune(PolynomialRatio(0.0, 0.5, 0, 1000), frequency=100)])),
        "PruneChannels": ("plain", variant(lambda: [PruneChannels({"macs": 0.5})])),
        "Cluster": ("plain", variant(lambda: [Cluster(16)])),
        "QuantizeAware": ("plain", variant(lambda: [QuantizeAware()])),
        "Diagnose": ("plain", variant(lambda: [Diagnose(verbose=0)])),
        "optimizers.Adam": ("plain", variant(optimizer=optimizers.Adam())),
        "ProximalAdam, L1": ("plain", variant(optimizer=optimizers.ProximalAdam(optimizers.proximal.L1(1e-4)))),
        "SGD, momentum 0.9": ("", variant(optimizer=keras.optimizers.SGD(momentum=0.9))),
        "optimizers.Momentum": ("SGD, momentum 0.9", variant(optimizer=optimizers.Momentum())),
    }


def _distilled() -> dict[str, tuple[str, Callable[[], float]]]:
    """A student of half the multiply-accumulates, alone and with the whole network as its teacher."""
    import tempfile

    import keras
    import tensorflow as tf

    from tfstruct import surgery
    from tfstruct.distill import Attention, Distill, Features, cached

    keras.utils.set_random_seed(0)
    teacher = _resnet8(keras)
    plan = surgery.plan_channels(teacher, {"macs": 0.5})
    data = tf.data.Dataset.from_tensor_slices(_data()).batch(BATCH)
    with_outputs = cached(teacher, data, f"{tempfile.mkdtemp()}/teacher.rows")

    def variant(losses=None, data=data, teach=True):
        student = surgery.apply(teacher, plan)
        student.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
        taught = Distill(teacher, losses, kept=plan)
        return _timed(keras, student, lambda: [taught.attach(student)] if teach else [], data.prefetch(2))

    inner = [layer.name for layer in teacher.layers if isinstance(layer, keras.layers.Add)]
    return {
        "half the MACs": ("", variant(teach=False)),
        "Distill": ("half the MACs", variant()),
        "Distill, features and attention": ("half the MACs", variant([Features(inner), Attention(inner)])),
        "Distill, cached outputs": ("half the MACs", variant(data=with_outputs)),
    }


def _tfmot() -> dict[str, tuple[str, Callable[[], float]]]:
    from tfstruct.legacy import tfmot as legacy_tfmot

    with legacy_tfmot.scope():
        import tensorflow_model_optimization as tfmot
        import tf_keras

        def variant(wrap, callbacks=list):
            tf_keras.utils.set_random_seed(0)
            model = wrap(_resnet8(tf_keras))
            model.compile("adam", "sparse_categorical_crossentropy")
            return _timed(tf_keras, model, callbacks)

        def pruned(model):
            schedule = tfmot.sparsity.keras.PolynomialDecay(0.0, 0.5, 0, 1000, frequency=100)
            return tfmot.sparsity.keras.prune_low_magnitude(model, schedule)

        def clustered(model):
            start = tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS
            return tfmot.clustering.keras.cluster_weights(model, 16, cluster_centroids_init=start)

        return {
            "plain tf_keras": ("", variant(lambda model: model)),
            "TFMOT prune_low_magnitude": (
                "plain tf_keras", variant(pruned, lambda: [tfmot.sparsity.keras.UpdatePruningStep()]),
            ),
            "TFMOT cluster_weights": ("plain tf_keras", variant(clustered)),
            "TFMOT quantize_model": ("plain tf_keras", variant(tfmot.quantization.keras.quantize_model)),
        }  # fmt: skip
