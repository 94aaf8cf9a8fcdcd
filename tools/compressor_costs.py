"""What compressors cost in training: to attach them, and in each step; TFMOT's beside them, on tf_keras."""

import gc
import pathlib
import statistics
import time
from collections.abc import Callable

import keras
import numpy as np
from interleaved import Table
from networks import encoder, resnet8, text_encoder

from tfstruct.callbacks import Cluster, Prune, PruneChannels, QuantizeAware
from tfstruct.errors import ModelError
from tfstruct.schedules import PolynomialRatio

STEPS, LEAD = 20, 3  # timed in each round; before the first, for tracing
NETWORKS = {
    "ResNet8, batch 64": (resnet8, (64, 32, 32, 3)),
    "MobileNetV2 at 96, batch 16": (lambda: keras.applications.MobileNetV2((96, 96, 3), weights=None), (16, 96, 96, 3)),
    "encoder of 4 blocks, batch 16": (text_encoder, (16, 64)),
}
COMPRESSORS = {
    "plain": lambda: None,
    "Prune": lambda: Prune(0.5),
    "PruneChannels": lambda: PruneChannels({"macs": 0.5}, PolynomialRatio(0.0, 0.5, 0, 10_000), frequency=1000),
    "Cluster": lambda: Cluster(16),
    "QuantizeAware": lambda: QuantizeAware(),
}
ATTACHED = {
    "Prune, by layer": lambda: Prune(0.5),
    "Prune, global": lambda: Prune(0.5, scope="global"),
    "Prune, 2:4": lambda: Prune(pattern="2:4"),
    "Cluster, 16 values": lambda: Cluster(16),
}


def training(rounds: int, quick: bool = False, folder: str | None = None) -> None:
    """CPU milliseconds of a step (`jit_compile=False`, Adam) against the plain one; then what attaching costs.

    A pass is `abs(w).sum()` over a copy of every weight. Memory is what the process takes at most above what it had
    before; that of a network that is built first takes more, as nothing is warm yet.
    """
    rounds, steps = (2, 5) if quick else (rounds, STEPS)
    settings = {"rounds": rounds, "steps": steps}
    table = Table("training", f"medians of {rounds} interleaved rounds of {steps} steps", settings, folder)
    for name, (build, shape) in list(NETWORKS.items())[: 1 if quick else None]:
        _rows(table, name, lambda b=build, s=shape: {**_ours(b, s), **_tfmot(s)}, rounds, steps)
        keras.backend.clear_session()
    table.show()
    size = (4, 256, 8000) if quick else (12, 768, 30_522)
    table = Table("training_attach", "attached to an encoder, first masks or values included", {"size": size}, folder)
    if set(table.rows) != set(ATTACHED):
        model = encoder(*size)
        for name, make in ATTACHED.items():
            table.row(name, lambda make=make: _attached(model, make))
    table.show()


Variant = tuple[str, Callable, float]  # what it is compared with, a step, megabytes to build and begin


def _rows(table: Table, name: str, variants: Callable[[], dict[str, Variant]], rounds: int, steps: int) -> None:
    if f"{name}: plain" in table.rows:
        return
    works = variants()
    begun = {work: megabytes for work, (_, _, megabytes) in works.items()}
    times: dict[str, list[float]] = {work: [] for work in works}
    for _ in range(rounds):
        for work, (_, step, _) in works.items():
            start = time.process_time()
            for _ in range(steps):
                step()
            times[work].append(time.process_time() - start)
    each = {work: statistics.median(found) / steps for work, found in times.items()}
    for work, (against, _, _) in works.items():
        row = {"ms a step": 1000 * each[work], "MB to build and begin": begun[work]}
        row["against"], row["ratio"] = against or None, each[work] / each[against] if against else None
        table.row(f"{name}: {work}", lambda row=row: row)


def _data(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 1000, shape).astype("int32") if len(shape) == 2 else rng.normal(size=shape).astype("float32")
    return x, rng.integers(0, 10, shape[0])


def _ours(build, shape) -> dict[str, Variant]:
    def begin(make) -> tuple[keras.Model, Callable | None]:
        keras.utils.set_random_seed(0)
        model, compressor = build(), make()
        model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
        if compressor is None:
            return model, None
        compressor.attach(model)
        return model, compressor.step

    found = {}
    for name, make in COMPRESSORS.items():
        try:
            found[name] = _begun("" if name == "plain" else "plain", lambda make=make: begin(make), shape)
        except ModelError as error:  # a network without channels that can go
            print(f"{name} is left out: {error}")
    return found


def _begun(against: str, begin: Callable[[], tuple], shape) -> Variant:
    data, steps = _data(shape), []

    def work():
        model, after = begin()

        def step():
            model.train_on_batch(*data)
            if after:
                after()

        steps.append(step)
        for _ in range(LEAD):
            step()

    megabytes, _ = _peak(work)
    return against, steps[0], megabytes


def _tfmot(shape) -> dict[str, Variant]:
    """TFMOT's wrappers, where it has any for the network's layers."""
    if len(shape) == 2:
        return {}
    try:
        from tfstruct.legacy import tfmot as legacy_tfmot

        with legacy_tfmot.scope():
            import tensorflow_model_optimization as tfmot
            import tf_keras
    except ImportError:
        return {}
    from training_steps import _resnet8

    def pruned(model):
        schedule = tfmot.sparsity.keras.ConstantSparsity(0.5, 0, frequency=100)
        return tfmot.sparsity.keras.prune_low_magnitude(model, schedule)

    def clustered(model):
        start = tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS
        return tfmot.clustering.keras.cluster_weights(model, 16, cluster_centroids_init=start)

    wraps = {
        "plain tf_keras": lambda model: model, "TFMOT prune_low_magnitude": pruned,
        "TFMOT cluster_weights": clustered, "TFMOT quantize_model": tfmot.quantization.keras.quantize_model,
    }  # fmt: skip

    def begin(wrap) -> tuple:
        tf_keras.utils.set_random_seed(0)
        small = shape[1] == 32
        model = wrap(_resnet8(tf_keras) if small else tf_keras.applications.MobileNetV2(shape[1:], weights=None))
        model.compile("adam", "sparse_categorical_crossentropy")
        if wrap is not pruned:
            return model, None
        callback = tfmot.sparsity.keras.UpdatePruningStep()
        callback.set_model(model)
        callback.on_train_begin()
        return model, lambda: callback.on_train_batch_begin(0)

    found = {}
    with legacy_tfmot.scope():
        for name, wrap in wraps.items():
            against = "" if name == "plain tf_keras" else "plain tf_keras"
            found[name] = _begun(against, lambda wrap=wrap: begin(wrap), shape)
    return found


def _attached(model: keras.Model, make: Callable) -> dict:
    def one_pass():
        for weight in model.weights:
            float(np.abs(weight.numpy()).sum())

    before = model.get_weights()
    passes = [_peak(one_pass)[1] for _ in range(3)]
    compressor = make()
    extra, seconds = _peak(lambda: compressor.attach(model))
    passes += [_peak(one_pass)[1] for _ in range(3)]
    compressor.finish()
    model.set_weights(before)
    megabytes = sum(weight.nbytes for weight in before) / 2**20
    return {
        "parameters": model.count_params(), "CPU s": seconds, "passes over the weights": seconds / min(passes),
        "MB": extra, "of the model's memory": extra / megabytes,
    }  # fmt: skip


def _peak(work: Callable) -> tuple[float, float]:
    """Megabytes that a work takes at most above what the process has, where Linux tells, and its CPU seconds."""
    gc.collect()
    before, start = _memory("VmRSS"), time.process_time()
    work()
    seconds = time.process_time() - start
    return _memory("VmHWM") - before, seconds


def _memory(what: str) -> float:
    """Megabytes; asked for what is held now, the peak begins anew."""
    status = pathlib.Path("/proc/self/status")
    if not status.exists():
        return float("nan")
    if what == "VmRSS":
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    return next(int(line.split()[1]) / 1024 for line in status.read_text().splitlines() if line.startswith(what))
