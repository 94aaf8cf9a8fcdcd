"""The shared ResNet8 compressed to one budget after the other, beside what TFMOT makes of it. Needs ../shared/data.

python tools/pareto.py [--auto] [--budgets BUDGET ...] [--workdir FOLDER] [--picture PNG]

Each budget has 20 epochs in all, with a strategy given by hand or decided by `compress`. Trained on 45,000 training
images, chosen on the other 5,000; the test set is looked at once each. Latencies are measured in turns with the file
that TensorFlow's own converter makes in int8.
"""

import argparse
import pathlib
import statistics

import nearest
import numpy as np
import resnet8
from rich.console import Console
from rich.table import Table
from tensorflow_files import plain_int8

from tfstruct import augment
from tfstruct.compression import Compressed, steps
from tfstruct.convert.runtime import Runtime, latency
from tfstruct.reporting import figures

# Each with the ranks that kernels of the second and third block get.
BUDGETS = {
    "tflite_bytes=56000,latency_us=60%": {"conv2d_4": 24, "conv2d_6": 32, "conv2d_7": 40},
    "tflite_bytes=48000,latency_us=60%": {"conv2d_4": 24, "conv2d_6": 24, "conv2d_7": 28},
}
SMALLEST = "tflite_bytes=32000,latency_us=45%"  # no strategy by hand
EPOCHS = 20
ROUNDS = 15
# ../shared/data/README.md: accuracy, bytes, and latency as a multiple of plain int8.
TFMOT = {
    "plain int8": (0.8388, 95_568, 1.0),
    "quantization-aware, 400 steps": (0.8358, 97_200, 463 / 450),
    "pruned 50 %, int8": (0.8131, 95_568, 466 / 450),
    "pruned 75 %, int8": (0.6828, 95_568, 454 / 450),
    "clustered, int8": (0.8139, 95_568, 1.0),
}


def share_of_time(content: bytes, reference: bytes) -> float:
    """The median ratio of the latencies of two files, measured in turns on one image."""
    ratios = []
    for _ in range(ROUNDS):
        ours, theirs = (latency(one, _image(one), seconds=0.1).median_us for one in (content, reference))
        ratios.append(ours / theirs)
    return statistics.median(ratios)


def _image(content: bytes) -> dict[str, np.ndarray]:
    (port,) = Runtime(content).inputs
    return {port.name: np.zeros((1, 32, 32, 3), port.dtype)}


def by_hand(ranks: dict[str, int]) -> list[steps.Step]:
    """The first block is a third of the work and a twentieth of the weights: it gets a quarter of the positions. The
    last one has two thirds of the weights: its kernels become columns and rows."""
    return [
        steps.DownsampleEarly(layer="conv2d", epochs=0),
        steps.Factorize(rank=ranks, method="spatial", epochs=17),
        steps.Quantize(epochs=3, rate=3e-4),
    ]


def compressed(budget: str, strategy, folder: str | None) -> Compressed:
    """By the strategy; the best that was found where it misses the budget."""
    x, y = resnet8.images("train")
    test = resnet8.images("test")
    train, validation = slice(0, resnet8.TRAIN), slice(resnet8.TRAIN, None)
    return nearest.compressed(
        resnet8.baseline(),
        (x[train].astype("float32"), y[train]),
        (x[validation].astype("float32"), y[validation]),
        budget,
        strategy=strategy,
        test=(test[0].astype("float32"), test[1]),
        epochs=EPOCHS,
        batch_size=32,
        learning_rate=3e-3,
        temperature=4.0,
        augment=augment.images("light"),
        workdir=folder,
        progress=lambda told: print(told, flush=True),
    )


def drawn(points: dict[str, tuple[float, int, float]], path: str) -> None:
    """Accuracy by bytes, TFMOT's points and ours."""

    def drawing(axes) -> None:
        for name, of in (("TFMOT", TFMOT), ("tfstruct.compress", points)):
            quality, size, _ = zip(*of.values(), strict=True)
            axes.plot(np.array(size) / 1000, 100 * np.array(quality), "o", label=name)
        axes.set(
            xlabel="kB of the int8 file", ylabel="accuracy on the CIFAR-10 test set, %", title="ResNet8", xlim=(40, 100)
        )
        axes.legend(loc="lower left")

    figures.draw(drawing, (7, 4.2), path=path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budgets", nargs="+", choices=[*BUDGETS, SMALLEST], help="by default all that there are")
    parser.add_argument("--auto", action="store_true", help="the strategy that `compress` decides on")
    parser.add_argument("--workdir", help="each budget keeps its stages in a folder of it")
    parser.add_argument("--picture")
    given = parser.parse_args()
    budgets = given.budgets or [*BUDGETS, *([SMALLEST] if given.auto else [])]
    if not given.auto and SMALLEST in budgets:
        parser.error(f"there is no strategy by hand for {SMALLEST}: give --auto")
    plain = plain_int8(resnet8.baseline(), resnet8.images("train")[0][:500].astype("float32"))
    table = Table(title=f"ResNet8 on CIFAR-10, compress in {EPOCHS} epochs")
    for column in ("budget", "test accuracy", "bytes", "gzipped", "MACs", "time of plain int8"):
        table.add_column(column, justify="left" if column == "budget" else "right")
    points = {}
    for number, budget in enumerate(budgets):
        folder = None if given.workdir is None else str(pathlib.Path(given.workdir) / f"budget-{number}")
        made = compressed(budget, "auto" if given.auto else by_hand(BUDGETS[budget]), folder)
        print(made.report)
        result, content = made.report.result, made.file.content
        points[budget] = (made.report.test.get("result", float("nan")), len(content), share_of_time(content, plain))
        quality, size, time = points[budget]
        row = (budget, f"{quality:.2%}", f"{size:,}", f"{result.gzip_bytes:,}", f"{result.macs:,}", f"{time:.2f}")
        print(*row, flush=True)
        table.add_row(*row)
    Console(width=120).print(table)
    if given.picture:
        drawn(points, given.picture)


if __name__ == "__main__":
    main()
