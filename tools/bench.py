"""Benchmarks. Each prints ratios of medians over interleaved rounds of one run, as single times mean little.

python tools/bench.py convert [--rounds 5]
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# What a careful user does by hand: TensorFlow's converter in a process that may crash.
_ALONE = """
import os, sys
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
import tensorflow as tf, keras
model = keras.saving.load_model(sys.argv[1], compile=False)
content = tf.lite.TFLiteConverter.from_keras_model(model).convert()
open(sys.argv[2], "wb").write(content)
"""


def convert(rounds: int) -> None:
    """`to_tflite` in float32, with its checks and latency, against TFLiteConverter alone in a child process."""
    import keras
    from rich.console import Console
    from rich.table import Table

    import tfstruct

    models = {
        "digits": lambda: _digits(),
        "MobileNetV2": lambda: keras.applications.MobileNetV2(weights=None),
        "ResNet50": lambda: keras.applications.ResNet50(weights=None),
    }
    table = Table(title=f"to_tflite, float32, {rounds} interleaved rounds")
    for column in ("model", "TFLiteConverter alone", "to_tflite", "ratio of medians"):
        table.add_column(column, justify="left" if column == "model" else "right")
    with tempfile.TemporaryDirectory() as folder:
        for name, build in models.items():
            model = build()
            path = os.path.join(folder, f"{name}.keras")
            model.save(path)
            alone, ours = [], []
            for _ in range(rounds):
                start = time.perf_counter()
                command = [sys.executable, "-c", _ALONE, path, os.path.join(folder, "out.tflite")]
                subprocess.run(command, check=True, capture_output=True)
                alone.append(time.perf_counter() - start)
                start = time.perf_counter()
                tfstruct.to_tflite(model)
                ours.append(time.perf_counter() - start)
            a, b = statistics.median(alone), statistics.median(ours)
            table.add_row(name, f"{a:.2f} s", f"{b:.2f} s", f"{b / a:.2f}")
    Console().print(table)


def _digits():
    from tfstruct import demo

    (x, y), _ = demo.digits()
    return demo.train(x, y, epochs=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["convert"])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    {"convert": convert}[options.what](options.rounds)


if __name__ == "__main__":
    main()
