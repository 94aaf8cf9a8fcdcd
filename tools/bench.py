"""Benchmarks. Each prints ratios of medians over interleaved rounds of one run, as single times mean little.

python tools/bench.py convert [--rounds 5] [--quick] [--out FOLDER]
python tools/bench.py convert_first [--quick] [--out FOLDER]
python tools/bench.py surgery [--rounds 5] [--quick] [--out FOLDER]
python tools/bench.py scale [--rounds 1] [--quick] [--out FOLDER]
python tools/bench.py opening [--quick] [--out FOLDER]
python tools/bench.py edits [--rounds 5]
python tools/bench.py training [--rounds 5] [--quick] [--out FOLDER]
python tools/bench.py fit [--rounds 5]
python tools/bench.py decide [--rounds 10] [--quick] [--out FOLDER]
python tools/bench.py tasks [--quick] [--out FOLDER]
python tools/bench.py keywords [--quick] [--out FOLDER]
python tools/bench.py damages [--quick] [--out FOLDER]    # ResNet8 needs ../shared/data; 20 minutes of a core
python tools/bench.py accuracy [--quick] [--out FOLDER]   # ResNet8 needs ../shared/data; 70 minutes of a core
python tools/bench.py ptq [--quick] [--out FOLDER]        # MCT's rows: TFSTRUCT_MCT=PYTHON, that of its environment
python tools/bench.py criteria      # needs ../shared/data; half an hour

`--quick` takes less than two minutes. `--out` keeps the rows as JSON and Markdown; a run that was stopped goes on with
them.
"""

import argparse
import importlib
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# Name -> the script that has it as a function; `--out` keeps their rows.
KEPT = {
    "convert": "conversion_times",
    "convert_first": "first_conversions",
    "surgery": "surgery_times",
    "scale": "scale_slopes",
    "training": "compressor_costs",
    "opening": "opening_costs",
    "decide": "decision_times",
    "tasks": "task_strategies",
    "keywords": "keyword_spotter",
    "damages": "predicted_damages",
    "accuracy": "accuracy_table",
    "ptq": "ptq_table",
}


def edits(rounds: int) -> None:
    """Each edit of layers against clone_model and a copy of the weights, in CPU seconds."""
    import keras
    from rich.console import Console
    from rich.table import Table

    from tfstruct import surgery

    def theirs(model):
        keras.models.clone_model(model).set_weights(model.get_weights())

    resnet = keras.applications.ResNet50(weights=None)
    mobile = keras.applications.MobileNetV2(weights=None)
    twins = [f"block_{i}_expand" for i in (4, 5)]
    cases = [
        ("delete_layer", mobile, lambda m: surgery.delete_layer(m, "block_4_expand_relu")),
        ("remove_redundant", mobile, surgery.remove_redundant),
        ("drop_blocks", resnet, lambda m: surgery.drop_blocks(m, blocks=["conv3_block2_add"])),
        ("downsample_early", mobile, surgery.downsample_early),
        ("fold_batch_norm", resnet, surgery.fold_batch_norm),
        ("fold_batch_norm", mobile, surgery.fold_batch_norm),
        ("merge_linear", mobile, surgery.merge_linear),
        ("merge_parallel", resnet, surgery.merge_parallel),
        ("fuse_activation", resnet, surgery.fuse_activation),
        ("factorize", resnet, lambda m: surgery.factorize(m, ["conv4_block2_2_conv"], rank=64)),
        ("share_layers", mobile, lambda m: surgery.share_layers(m, [twins])),
        ("widen", resnet, lambda m: surgery.widen(m, "conv4_block2_2_conv", 300)),
        ("deepen", resnet, lambda m: surgery.deepen(m, "conv4_block2_out")),
        ("shrink", mobile, surgery.shrink),
        ("optimize_inference", mobile, surgery.optimize_inference),
    ]
    table = Table(title=f"{rounds} interleaved rounds")
    for column in ("edit", "model", "clone_model and weights", "edit", "ratio of medians"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name, model, edit in cases:
        times = [(_seconds(theirs, model), _seconds(edit, model)) for _ in range(rounds)]
        a, b = (statistics.median(column) for column in zip(*times, strict=True))
        table.add_row(name, model.name, f"{a:.2f} s", f"{b:.2f} s", f"{b / a:.2f}")
    Console().print(table)


def _seconds(work, model) -> float:
    start = time.process_time()
    work(model)
    return time.process_time() - start


CRITERIA = (
    "l1", "l2", "geometric_median", "bn_scale", "lamp", "gradient", "hessian", "activation", "apoz", "entropy",
    "sparsity", "random",
)  # fmt: skip


def criteria(rounds: int) -> None:
    """ResNet8 at half of its MACs by every criterion: as it is, with batch norm recalibrated, after one epoch.

    Planned, calibrated and trained on the first 40,000 training images; compared on the other 10,000. The best one
    after an epoch is evaluated on the test set, once.
    """
    import pathlib

    import keras
    import numpy as np
    from rich.console import Console
    from rich.table import Table

    from tfstruct import legacy
    from tfstruct.surgery import apply, plan_channels, recalibrate_batch_norm

    data = pathlib.Path(__file__).parents[1] / ".." / "shared" / "data"
    model = legacy.load(data / "models" / "resnet8_cifar10_jpeg.h5")
    x, y = _cifar(data / "cifar10" / "train.tfrecord")
    train, held = (x[:40_000], y[:40_000]), (x[40_000:], y[40_000:])

    def accuracy(net, images, labels) -> float:
        return float(np.mean(net.predict(images, batch_size=500, verbose=0).argmax(1) == labels))

    def tuned(net):
        keras.utils.set_random_seed(0)
        pipeline = keras.Sequential(
            [keras.layers.RandomFlip("horizontal"), keras.layers.RandomTranslation(0.0625, 0.0625)]
        )
        import tensorflow as tf

        batches = tf.data.Dataset.from_tensor_slices(train).shuffle(40_000, seed=0).batch(64, drop_remainder=True)
        batches = batches.map(lambda a, b: (pipeline(a, training=True), b), num_parallel_calls=2).prefetch(4)
        schedule = keras.optimizers.schedules.CosineDecay(1e-3, 625)
        net.compile(keras.optimizers.Adam(schedule), "sparse_categorical_crossentropy")
        net.fit(batches, epochs=1, verbose=0)
        return net

    table = Table(title=f"ResNet8, macs 0.5, 10,000 held-out training images; whole: {accuracy(model, *held):.2%}")
    for column in ("criterion", "as it is", "recalibrated", "one epoch", "params"):
        table.add_column(column, justify="left" if column == "criterion" else "right")
    best = (0.0, "", None)
    for criterion in CRITERIA:
        plan = plan_channels(
            model, {"macs": 0.5}, criterion, data=(train[0][:1000], train[1][:1000]),
            loss="sparse_categorical_crossentropy",
        )  # fmt: skip
        net = apply(model, plan)
        plain = accuracy(net, *held)
        recalibrate_batch_norm(net, train[0][:5000], batch_size=500)
        again = accuracy(net, *held)
        after = accuracy(tuned(net), *held)
        table.add_row(criterion, *(f"{v:.2%}" for v in (plain, again, after)), f"{net.count_params():,}")
        best = max(best, (after, criterion, net), key=lambda b: b[0])
    Console().print(table)
    x, y = _cifar(data / "cifar10" / "test.tfrecord")
    Console().print(f"best on the held-out images: {best[1]}; test accuracy {accuracy(best[2], x, y):.2%}")


def _cifar(path):
    import tensorflow as tf

    def parse(record):
        shape = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}
        found = tf.io.parse_single_example(record, shape)
        image = tf.io.decode_jpeg(found["image"], 3, dct_method="INTEGER_ACCURATE")
        return tf.cast(image, tf.float32), found["label"]

    batches = tf.data.TFRecordDataset(str(path)).map(parse, num_parallel_calls=2).batch(100_000)
    x, y = next(iter(batches))
    return x.numpy(), y.numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*KEPT, "edits", "fit", "criteria"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help=f"{', '.join(KEPT)}: less of it, in under two minutes")
    parser.add_argument("--out", help=f"{', '.join(KEPT)}: the folder of the rows as JSON and Markdown")
    options = parser.parse_args()
    if options.what in KEPT:
        bench = getattr(importlib.import_module(KEPT[options.what]), options.what)
        bench(options.rounds, options.quick, options.out)
        return
    from training_steps import fit

    every = {"edits": edits, "fit": fit, "criteria": criteria}
    every[options.what](options.rounds)


if __name__ == "__main__":
    main()
