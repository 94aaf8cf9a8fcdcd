"""The shared ResNet8 on CIFAR-10, compressed: the figures of docs/benchmarks.md. Needs ../shared/data.

python tools/resnet8.py prune [--ratio 0.5]      # element sparsity in 781 steps, then int8
python tools/resnet8.py channels [--macs 0.5]    # channels to zero in 8 epochs, shrink, int8
python tools/resnet8.py quantize [--precision int4] # quantization-aware in 400 steps
python tools/resnet8.py cluster [--bits 4]       # kernels of 16 values, int8-aware, in 300 steps
python tools/resnet8.py posttrain [--precision int4] # after training, with 512 images and no labels
python tools/resnet8.py optimizers               # channels to zero by optimizers and by PruneChannels, 3 epochs each
python tools/resnet8.py distill                  # half of the MACs, one epoch: labels alone, and with a teacher

Training uses the first 45,000 training images, choices are made on the other 5,000, and the test set is looked at once.
"""

import argparse
import pathlib
import time

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

import tfstruct
from tfstruct import Recipe, legacy, optimizers
from tfstruct.analyze import Costs
from tfstruct.callbacks import Cluster, Prune, PruneChannels, QuantizeAware
from tfstruct.distill import Attention, Distill, Features, Logits
from tfstruct.graph import trace
from tfstruct.graph.copying import copied
from tfstruct.quantize import Scheme, adaround, blockwise, calibrate, correct_bias, equalize
from tfstruct.schedules import PolynomialRatio
from tfstruct.surgery import fold_batch_norm

DATA = pathlib.Path(__file__).parents[1] / ".." / "shared" / "data"
BATCH = 64
TRAIN = 45_000


def images(part: str) -> tuple[np.ndarray, np.ndarray]:
    """`train` or `test`: pixels 0..255 as uint8, and labels."""
    features = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}

    def decode(record):
        one = tf.io.parse_single_example(record, features)
        return tf.io.decode_jpeg(one["image"], 3, dct_method="INTEGER_ACCURATE"), one["label"]

    records = tf.data.TFRecordDataset(str(DATA / "cifar10" / f"{part}.tfrecord")).map(decode, 2)
    x, y = next(iter(records.batch(100_000)))
    return x.numpy(), y.numpy()


def augmented(x: np.ndarray, y: np.ndarray, seed: int = 0, batch: int = BATCH) -> tf.data.Dataset:
    """Endless batches: flips, and crops of 32 x 32 after a reflected border of 2 pixels."""

    def change(image, label):
        image = tf.pad(tf.image.random_flip_left_right(image), [[2, 2], [2, 2], [0, 0]], "REFLECT")
        return tf.cast(tf.image.random_crop(image, [32, 32, 3]), tf.float32), label

    stream = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=seed).repeat()
    return stream.map(change, num_parallel_calls=2, deterministic=True).batch(batch).prefetch(4)


def baseline() -> keras.Model:
    return legacy.load(DATA / "models" / "resnet8_cifar10_jpeg.h5")


def accuracy(model: keras.Model, x: np.ndarray, y: np.ndarray) -> float:
    return float(np.mean(model.predict(x.astype("float32"), batch_size=500, verbose=0).argmax(1) == y))


def file_accuracy(file: tfstruct.TFLiteModel, x: np.ndarray, y: np.ndarray) -> float:
    return float(np.mean(file.predict(x.astype("float32")).argmax(1) == y))


def int8(model: keras.Model, x: np.ndarray, y: np.ndarray, calibration: np.ndarray):
    """The int8 file of a model, and its accuracy."""
    file = tfstruct.to_tflite(
        model, Recipe(precision="int8", calibrator="percentile", calibration=calibration[:500].astype("float32"))
    )
    return file, file_accuracy(file, x, y)


def prune(ratio: float, steps: int = 781) -> None:
    """Element sparsity: learning rate and scope chosen on validation images, then int8 and the test set."""
    x, y = images("train")
    held = x[TRAIN:], y[TRAIN:]
    table = Table(title=f"ResNet8, {ratio:.0%} of the weights at zero in {steps} steps of {BATCH}")
    for column in ("scope", "learning rate", "sparsity", "validation accuracy"):
        table.add_column(column, justify="right")
    best = (0.0, None, "")
    for scope in ("layer", "global"):
        for rate in (1e-3, 3e-3):
            keras.utils.set_random_seed(0)
            model = baseline()
            schedule = keras.optimizers.schedules.CosineDecay(rate, steps)
            model.compile(keras.optimizers.Adam(schedule), "sparse_categorical_crossentropy")
            pruner = Prune(PolynomialRatio(0.0, ratio, 0, 500), scope=scope, frequency=50)
            model.fit(augmented(x[:TRAIN], y[:TRAIN]), steps_per_epoch=steps, callbacks=[pruner], verbose=0)
            found = accuracy(model, *held)
            table.add_row(scope, f"{rate:g}", f"{pruner.report.sparsity:.4f}", f"{found:.2%}")
            best = max(best, (found, model, f"{scope}, {rate:g}"), key=lambda b: b[0])
    Console().print(table)
    test = images("test")
    file, after = int8(best[1], *test, x)
    Console().print(
        f"chosen: {best[2]}; test accuracy {accuracy(best[1], *test):.2%}, int8 {after:.2%}; "
        f"{len(file.content):,} bytes, {file.report.gzip_size:,} gzipped"
    )


# Of PruneChannels: which channels go. The first block is a third of the work and a twentieth of the weights.
REST = ("conv2d", "conv2d_3", "conv2d_4", "conv2d_6", "conv2d_7")
WAYS = {
    "everywhere": {},
    "by the largest": {"normalization": "max"},
    "inside the blocks": {"normalization": "max", "exclude": ["conv2d", "conv2d_4", "conv2d_7"]},
    "first block": {"max_ratio": {"conv2d_1": 1.0, **dict.fromkeys(REST, 0.15)}},
}


def channels(macs: float, way: str, choose: bool, rate: float = 3e-3, epochs: int = 8, batch: int = 32) -> None:
    """Whole channels to zero while training, taught by the unpruned network; then `shrink`, int8 and the test set.

    The shared network was trained on all training images, so none of them can tell how well it generalizes: choices are
    made with another one, trained from scratch on 40,000 of them, by its accuracy on the other 10,000.
    """
    x, y = images("train")
    before = Costs(trace(baseline()), ("macs",))()["macs"]

    def trained(whole: keras.Model, way: str, count: int) -> tuple[keras.Model, str]:
        keras.utils.set_random_seed(0)
        model, steps = copied(whole), count // batch
        schedule = keras.optimizers.schedules.CosineDecay(rate, epochs * steps)
        model.compile(keras.optimizers.Adam(schedule), "sparse_categorical_crossentropy")
        when = PolynomialRatio(0.0, 0.5, 0, int(0.1 * epochs * steps))  # most of the steps are for what stays
        taught = Distill(whole, [Logits(4.0), Features("add*"), Attention("add*")])
        stream = augmented(x[:count], y[:count], batch=batch)
        callbacks = [PruneChannels({"macs": macs}, when, **WAYS[way]), taught]
        model.fit(stream, steps_per_epoch=steps, epochs=epochs, callbacks=callbacks, verbose=0)
        smaller = tfstruct.shrink(model).model
        left = Costs(trace(smaller), ("macs",))()["macs"] / before
        return smaller, f"{way}: {left:.1%} of the MACs, {smaller.count_params():,} parameters"

    if choose:
        whole = _from_scratch(x[:40_000], y[:40_000])
        print(f"from scratch: {accuracy(whole, x[40_000:], y[40_000:]):.2%} of the held-out images", flush=True)
        for one in WAYS:
            smaller, said = trained(whole, one, 40_000)
            print(f"{said}; {accuracy(smaller, x[40_000:], y[40_000:]):.2%} of the held-out images", flush=True)
        return
    smaller, said = trained(baseline(), way, len(x))
    test = images("test")
    file, after = int8(smaller, *test, x)
    Console().print(
        f"{said}; test accuracy {accuracy(smaller, *test):.2%}, int8 {after:.2%}; {len(file.content):,} bytes, "
        f"{file.report.gzip_size:,} gzipped"
    )


def _from_scratch(x: np.ndarray, y: np.ndarray, epochs: int = 22) -> keras.Model:
    """A network of the same architecture."""
    keras.utils.set_random_seed(1)
    model, steps = keras.models.clone_model(baseline()), len(x) // BATCH
    schedule = keras.optimizers.schedules.CosineDecay(
        1e-5, (epochs - 2) * steps, warmup_target=4e-3, warmup_steps=2 * steps
    )
    model.compile(keras.optimizers.Adam(schedule), "sparse_categorical_crossentropy")
    model.fit(augmented(x, y), steps_per_epoch=steps, epochs=epochs, verbose=0)
    return model


def quantize(precision: str, rates: list[float], steps: int = 400) -> None:
    """Quantization-aware: learning rate chosen on validation images, then the file and the test set."""
    x, y = images("train")
    held = x[TRAIN:], y[TRAIN:]
    best = (0.0, None, "")
    for rate in rates:
        keras.utils.set_random_seed(0)
        model = baseline()
        schedule = keras.optimizers.schedules.CosineDecay(rate, steps)
        model.compile(keras.optimizers.Adam(schedule), "sparse_categorical_crossentropy")
        aware = QuantizeAware(precision, freeze_batch_norm=0)
        model.fit(augmented(x[:TRAIN], y[:TRAIN]), steps_per_epoch=steps, callbacks=[aware], verbose=0)
        found = accuracy(aware.twin, *held)
        print(f"learning rate {rate:g}: validation accuracy {found:.2%}", flush=True)
        best = max(best, (found, aware.twin, f"{rate:g}"), key=lambda b: b[0])
    test = images("test")
    file = tfstruct.to_tflite(best[1])
    twin = best[1].predict(test[0].astype("float32"), batch_size=500, verbose=0).argmax(1)
    theirs = file.predict(test[0].astype("float32")).argmax(1)
    Console().print(
        f"chosen: {best[2]}; test accuracy of the {precision} file {np.mean(theirs == test[1]):.2%}, of the twin "
        f"{np.mean(twin == test[1]):.2%}, equal top-1 {np.mean(twin == theirs):.2%}; {len(file.content):,} bytes, "
        f"{file.report.gzip_size:,} gzipped"
    )


def cluster(bits: int, entropy: float | None, rates: list[float], steps: int = 300) -> None:
    """At most 2^bits values a kernel, quantization-aware and taught by the network it was: learning rate chosen by int8
    files on validation images."""
    x, y = images("train")
    held = x[TRAIN:], y[TRAIN:]
    table = Table(title=f"ResNet8, {2**bits} values a kernel in {steps} steps of {BATCH}")
    for column in ("learning rate", "bits a weight", "gzipped bytes", "validation accuracy, int8"):
        table.add_column(column, justify="right")
    best = (0.0, None, None, None, "")
    for rate in rates:
        keras.utils.set_random_seed(0)
        model = baseline()
        schedule = keras.optimizers.schedules.CosineDecay(rate, steps)
        model.compile(keras.optimizers.Adam(schedule), "sparse_categorical_crossentropy")
        # One step a kernel, so that the file has the shared values; ranges that follow 300 steps.
        shared, aware = Cluster(bits=bits, entropy=entropy), QuantizeAware(Scheme("int8", per="layer", momentum=0.95))
        callbacks = [shared, aware, Distill(baseline(), Logits(4.0))]
        model.fit(augmented(x[:TRAIN], y[:TRAIN]), steps_per_epoch=steps, callbacks=callbacks, verbose=0)
        file = tfstruct.to_tflite(aware.twin)
        found = file_accuracy(file, *held)
        table.add_row(f"{rate:g}", f"{shared.report.entropy:.2f}", f"{file.report.gzip_size:,}", f"{found:.2%}")
        best = max(best, (found, model, shared, file, f"{rate:g}"), key=lambda b: b[0])
    Console().print(table)
    _, model, shared, file, chosen = best
    test = images("test")
    print(shared.report)
    Console().print(
        f"chosen: {chosen}; test accuracy {accuracy(model, *test):.2%}, int8 {file_accuracy(file, *test):.2%}; "
        f"{len(file.content):,} bytes, {file.report.gzip_size:,} gzipped"
    )


def posttrain(precision: str, samples: int = 512) -> None:
    """Quantized after training, with the first training images and no labels: the twins on validation images, and the
    files on the test set."""
    x, y = images("train")
    held, test, data = (x[TRAIN:], y[TRAIN:]), images("test"), x[:samples].astype("float32")
    model = baseline()
    calibrated = calibrate(model, data, precision, "percentile")
    methods = {
        "calibrate": lambda: calibrated,
        "correct_bias": lambda: correct_bias(calibrated, data),
        "equalize, correct_bias": lambda: correct_bias(
            calibrate(equalize(fold_batch_norm(model).model), data, precision, "percentile"), data
        ),
        "adaround": lambda: adaround(calibrated, data),
        "blockwise": lambda: blockwise(calibrated, data),
    }
    table = Table(title=f"ResNet8 to {precision} after training, {samples} images without labels")
    for column in ("method", "validation accuracy", "test accuracy of the file", "bytes", "seconds"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for name, make in methods.items():
        keras.utils.set_random_seed(0)
        start = time.perf_counter()
        twin = make()
        seconds = time.perf_counter() - start
        file = tfstruct.to_tflite(twin)
        found = float(np.mean(file.predict(test[0].astype("float32")).argmax(1) == test[1]))
        row = (name, f"{accuracy(twin, *held):.2%}", f"{found:.2%}", f"{len(file.content):,}", f"{seconds:.0f}")
        print(*row, flush=True)
        table.add_row(*row)
    Console().print(table)


def optimized(only: str, epochs: int = 3) -> None:
    """Channels at exactly zero by optimizers, beside PruneChannels: what `shrink` leaves, and its accuracy."""
    x, y = images("train")
    train, test = (x[:TRAIN], y[:TRAIN]), images("test")
    steps = TRAIN // BATCH
    total = epochs * steps
    table = Table(title=f"ResNet8, {epochs} epochs of {steps} steps, cosine from the rate given, then shrink")
    for column in ("training", "channels at zero", "MACs left", "test accuracy"):
        table.add_column(column, justify="left" if column == "training" else "right")

    def sparse(target):
        def compiled(model):
            inner = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-3, total))
            return optimizers.StructuredSparse(
                inner, model, target=target, warmup_steps=total // 10, pruning_steps=total // 3, periods=10
            ), []

        return compiled

    def proximal(strength):
        def compiled(model):
            rate = keras.optimizers.schedules.CosineDecay(1e-3, total)
            return optimizers.ProximalAdam(optimizers.proximal.ChannelGroups(model, strength), rate), []

        return compiled

    def pruned(share):
        def compiled(model):
            schedule = PolynomialRatio(0.0, 0.5, total // 10, total // 2)
            rate = keras.optimizers.schedules.CosineDecay(1e-3, total)
            return keras.optimizers.Adam(rate), [PruneChannels(share, schedule)]

        return compiled

    variants = {
        "StructuredSparse, target 0.25": sparse(0.25),
        "StructuredSparse, target 0.5": sparse(0.5),
        "ProximalAdam, ChannelGroups(0.1)": proximal(0.1),
        "ProximalAdam, ChannelGroups(0.12)": proximal(0.12),
        "ProximalAdam, ChannelGroups(0.15)": proximal(0.15),
        "PruneChannels, share 0.25": pruned(0.25),
        "PruneChannels, share 0.5": pruned(0.5),
    }
    for name, compiled in variants.items():
        if only not in name:
            continue
        keras.utils.set_random_seed(0)
        model = baseline()
        before, width = Costs(trace(model), ("macs",))()["macs"], _channels(model)
        optimizer, callbacks = compiled(model)
        model.compile(optimizer, "sparse_categorical_crossentropy", jit_compile=False)
        model.fit(augmented(*train), steps_per_epoch=steps, epochs=epochs, callbacks=callbacks, verbose=0)
        smaller = tfstruct.shrink(model).model
        left = Costs(trace(smaller), ("macs",))()["macs"]
        row = (name, f"{1 - _channels(smaller) / width:.0%}", f"{left / before:.1%}", f"{accuracy(smaller, *test):.2%}")
        print(*row, flush=True)
        table.add_row(*row)
    Console().print(table)


def distilled(seeds: int = 3) -> None:
    """Half of the multiply-accumulates, then one epoch: on labels alone, and with the whole network as teacher."""
    x, y = images("train")
    held = x[TRAIN:], y[TRAIN:]
    steps = TRAIN // BATCH
    teacher = baseline()
    plan = tfstruct.plan_channels(teacher, {"macs": 0.5})
    variants = {
        "labels": lambda: [],
        "Logits(4.0)": lambda: [Distill(teacher, Logits(4.0))],
        "Logits(4.0), Features, Attention": lambda: [
            Distill(teacher, [Logits(4.0), Features("add*"), Attention("add*")], kept=plan)
        ],
    }
    table = Table(title=f"ResNet8 at half of its MACs, one epoch of {steps} steps, by seed")
    table.add_column("learned from")
    for seed in range(seeds):
        table.add_column(f"{seed}", justify="right")
    for name, callbacks in variants.items():
        found = []
        for seed in range(seeds):
            keras.utils.set_random_seed(seed)
            student = tfstruct.apply(teacher, plan)
            rate = keras.optimizers.schedules.CosineDecay(1e-3, steps)
            student.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", jit_compile=False)
            stream = augmented(x[:TRAIN], y[:TRAIN], seed)
            student.fit(stream, steps_per_epoch=steps, callbacks=callbacks(), verbose=0)
            found.append(f"{accuracy(student, *held):.2%}")
            print(name, seed, found[-1], flush=True)
        table.add_row(name, *found)
    Console().print(table)


def _channels(model: keras.Model) -> int:
    return sum(layer.filters for layer in model.layers if isinstance(layer, keras.layers.Conv2D))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    sparse = commands.add_parser("prune", help=prune.__doc__)
    sparse.add_argument("--ratio", type=float, default=0.5)
    whole = commands.add_parser("channels", help=channels.__doc__)
    whole.add_argument("--macs", type=float, default=0.5)
    whole.add_argument("--way", choices=WAYS, default="first block")
    whole.add_argument("--choose", action="store_true", help="compare the ways on held-out images instead")
    aware = commands.add_parser("quantize", help=quantize.__doc__)
    aware.add_argument("--precision", default="int8")
    aware.add_argument("--rates", type=float, nargs="+", default=[1e-5, 3e-5, 1e-4])
    few = commands.add_parser("cluster", help=cluster.__doc__)
    few.add_argument("--bits", type=int, default=4)
    few.add_argument("--entropy", type=float, default=2.98)
    few.add_argument("--rates", type=float, nargs="+", default=[2e-4, 3e-4, 5e-4])
    after = commands.add_parser("posttrain", help=posttrain.__doc__)
    after.add_argument("--precision", default="int8")
    channels_by = commands.add_parser("optimizers", help=optimized.__doc__)
    channels_by.add_argument("--only", default="", help="variants with this in their name")
    commands.add_parser("distill", help=distilled.__doc__)
    given = parser.parse_args()
    if given.command == "prune":
        prune(given.ratio)
    elif given.command == "channels":
        channels(given.macs, given.way, given.choose)
    elif given.command == "quantize":
        quantize(given.precision, given.rates)
    elif given.command == "distill":
        distilled()
    elif given.command == "cluster":
        cluster(given.bits, given.entropy, given.rates)
    elif given.command == "posttrain":
        posttrain(given.precision)
    else:
        optimized(given.only)


if __name__ == "__main__":
    main()
