"""Accuracy of files after compression in training, over three seeds; TFMOT's beside them, where it has the same.

Both tools see the same images in the same batches, for as many steps, with Adam and a cosine. Of the learning rates
each of them takes the one that is best on held-out images with seed 0; the test images are looked at once a file.
"""

import dataclasses
import gzip
import statistics
import time
from collections.abc import Callable

import keras
from accuracy_tasks import DIGITS, Task, of_file, of_model, tasks
from interleaved import Table
from tensorflow_files import plain_int8

import tfstruct
from tfstruct import Recipe
from tfstruct.callbacks import Cluster, Prune, QuantizeAware
from tfstruct.distill import Distill
from tfstruct.graph.copying import copied
from tfstruct.schedules import PolynomialRatio

SEEDS = (0, 1, 2)
OURS, TFMOT = "tfstruct", "TFMOT"
# What makes (content of the file, trained model) of a task, a seed and a learning rate.
Make = Callable[[Task, int, float], tuple[bytes, object]]
# Of seed 0, by learning rate: that, and CPU seconds.
Trained = dict[float, tuple[bytes, object, float]]


@dataclasses.dataclass(frozen=True)
class Way:
    """One way to compress; `rates`: the learning rates to choose from."""

    name: str
    tool: str
    rates: tuple[float, ...]
    make: Make

    def __str__(self) -> str:
        return f"{self.name}: {self.tool}"


def accuracy(rounds: int, quick: bool = False, folder: str | None = None) -> None:
    """Each training is kept in `accuracy_runs.json` as it is done; `accuracy` has means and spreads of those there."""
    seeds = SEEDS[:1] if quick else SEEDS
    settings = {"seeds": seeds, "quick": quick}
    runs = Table("accuracy_runs", "each training", settings, folder)
    table = Table("accuracy", f"test accuracy in percent, int8 files, {len(seeds)} seeds", settings, folder)
    for task in tasks(quick):
        trained: Trained = {}
        ways = [*_ours(), *_tfmot()]
        if quick and task.name != DIGITS:  # one of each tool
            ways = [way for way in ways if way.name == ways[0].name]
        for seed in seeds:  # a stopped run has all ways of the first seeds
            runs.row(f"{task.name}, float, seed {seed}", lambda t=task, s=seed: _float(t, s))
            table.replace(f"{task.name}: float32", _summary(_of(runs, task, "float")))
            for way in ways:
                rate = way.rates[0] if quick or len(way.rates) == 1 else _chosen(runs, task, way, trained)
                key = f"{task.name}, {way}, seed {seed}"
                runs.row(key, lambda t=task, w=way, s=seed, r=rate, d=trained: _measured(t, w, s, r, d))
                trained.clear()
                table.replace(f"{task.name}, {way}", _summary(_of(runs, task, str(way))))
        keras.backend.clear_session()
    table.show()


def _of(runs: Table, task: Task, way: str) -> list[dict]:
    return [row for key, row in runs.rows.items() if key.startswith(f"{task.name}, {way}, seed ")]


def _chosen(runs: Table, task: Task, way: Way, trained: Trained) -> float:
    """The learning rate whose file is best on the held-out images; what was made for that is put into `trained`."""

    def held(rate: float) -> dict:
        start = time.process_time()
        made = way.make(task, 0, rate)
        trained[rate] = *made, time.process_time() - start
        return {"held-out": of_file(made[0], task.held)}

    found = {r: runs.row(f"{task.name}, {way}, rate {r:g}", lambda r=r: held(r))["held-out"] for r in way.rates}
    return max(way.rates, key=lambda rate: found[rate])


def _float(task: Task, seed: int) -> dict:
    return {"float": of_model(task.model(seed), task.test)}


def _measured(task: Task, way: Way, seed: int, rate: float, trained: Trained) -> dict:
    start = time.process_time()
    if rate in trained and seed == 0:
        content, model, seconds = trained[rate]
    else:
        content, model = way.make(task, seed, rate)
        seconds = time.process_time() - start
    return {
        "rate": rate, "float": of_model(model, task.test), "file": of_file(content, task.test),
        "bytes": len(content), "gzipped": len(gzip.compress(content, 9, mtime=0)), "CPU s": seconds,
    }  # fmt: skip


def _summary(rows: list[dict]) -> dict:
    """Means, and the standard deviation of the file's accuracy where there are several seeds."""
    found: dict = {"seeds": len(rows)}
    for name in rows[0]:
        values = [row[name] for row in rows]
        mean = statistics.mean(values)
        if name in ("float", "file"):
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            found[name] = f"{mean:.2f}{spread}"
        else:
            found[name] = round(mean) if name in ("bytes", "gzipped") else mean
    return found


def _fitted(task: Task, seed: int, rate: float, callbacks, model: keras.Model | None = None) -> keras.Model:
    model = copied(task.model(seed)) if model is None else model
    keras.utils.set_random_seed(seed)
    schedule = keras.optimizers.schedules.CosineDecay(rate, task.steps)
    model.compile(keras.optimizers.Adam(schedule), "sparse_categorical_crossentropy", jit_compile=False)
    model.fit(task.stream(seed), steps_per_epoch=task.steps, callbacks=callbacks, verbose=0)
    return model


def _int8(task: Task, model: keras.Model) -> bytes:
    recipe = Recipe("int8", calibrator="percentile", calibration=task.calibration, measure_latency=False)
    return tfstruct.to_tflite(model, recipe).content


def _ours() -> list[Way]:
    def pruned(ratio: float) -> Make:
        def make(task, seed, rate):
            schedule = PolynomialRatio(0.0, ratio, 0, 2 * task.steps // 3)
            model = _fitted(task, seed, rate, [Prune(schedule, scope="global", frequency=max(task.steps // 16, 1))])
            return _int8(task, model), model

        return make

    def aware(precision: str) -> Make:
        def make(task, seed, rate):
            callback = QuantizeAware(precision, freeze_batch_norm=0)
            _fitted(task, seed, rate, [callback])
            recipe = Recipe(precision, measure_latency=False)
            return tfstruct.to_tflite(callback.twin, recipe).content, callback.twin

        return make

    def clustered(task, seed, rate):
        model = _fitted(task, seed, rate, [Cluster(16)])
        return _int8(task, model), model

    def halved(task, seed, rate):
        teacher = task.model(seed)
        plan = tfstruct.plan_channels(teacher, {"macs": 0.5})
        model = _fitted(task, seed, rate, [Distill(teacher, kept=plan)], tfstruct.apply(teacher, plan))
        return _int8(task, model), model

    return [
        Way("50 % of the weights at zero", OURS, (3e-4, 1e-3, 3e-3), pruned(0.5)),
        Way("75 % of the weights at zero", OURS, (3e-4, 1e-3, 3e-3), pruned(0.75)),
        Way("int8, quantization-aware", OURS, (3e-5, 1e-4), aware("int8")),
        Way("4-bit weights, quantization-aware", OURS, (3e-4, 1e-3), aware("int4")),
        Way("16 values a kernel", OURS, (1e-5, 5e-4), clustered),
        Way("half of the MACs, taught by the whole network", OURS, (1e-3, 3e-3), halved),
    ]


def _tfmot() -> list[Way]:
    """TFMOT's wrappers on tf_keras, and the file of TensorFlow's converter."""
    try:
        from tfstruct.legacy import tfmot as legacy_tfmot

        with legacy_tfmot.scope():
            import tensorflow_model_optimization as tfmot
            import tf_keras
    except ImportError:
        print("TFMOT's rows are left out: tensorflow-model-optimization is not installed")
        return []

    def fitted(model, task, seed, rate, callbacks=()):
        tf_keras.utils.set_random_seed(seed)
        schedule = tf_keras.optimizers.schedules.CosineDecay(rate, task.steps)
        model.compile(tf_keras.optimizers.Adam(schedule), "sparse_categorical_crossentropy")
        model.fit(task.stream(seed), steps_per_epoch=task.steps, callbacks=list(callbacks), verbose=0)
        return model

    def of(wrap) -> Make:
        def make(task, seed, rate):
            with legacy_tfmot.scope():
                model = wrap(task.legacy(task.model(seed)), task, seed, rate)
                return plain_int8(model, task.calibration), model

        return make

    def pruned(ratio: float):
        def wrap(model, task, seed, rate):
            frequency = max(task.steps // 16, 1)
            end = 2 * task.steps // 3
            schedule = tfmot.sparsity.keras.PolynomialDecay(0.0, ratio, 0, end, frequency=frequency)
            model = tfmot.sparsity.keras.prune_low_magnitude(model, schedule)
            model = fitted(model, task, seed, rate, [tfmot.sparsity.keras.UpdatePruningStep()])
            return tfmot.sparsity.keras.strip_pruning(model)

        return wrap

    def clustered(model, task, seed, rate):
        start = tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS
        model = tfmot.clustering.keras.cluster_weights(model, 16, cluster_centroids_init=start)
        return tfmot.clustering.keras.strip_clustering(fitted(model, task, seed, rate))

    def aware(model, task, seed, rate):
        return fitted(tfmot.quantization.keras.quantize_model(model), task, seed, rate)

    return [
        Way("50 % of the weights at zero", TFMOT, (3e-4, 1e-3, 3e-3), of(pruned(0.5))),
        Way("75 % of the weights at zero", TFMOT, (3e-4, 1e-3, 3e-3), of(pruned(0.75))),
        Way("int8, quantization-aware", TFMOT, (3e-5, 1e-4), of(aware)),
        Way("16 values a kernel", TFMOT, (1e-5, 5e-4), of(clustered)),
    ]
