"""A digits network whose kernels share 16 values each, in the int8 file too.

python examples/cluster_weights.py
"""

import keras
import numpy as np
from rich.console import Console

from tfstruct import Recipe, demo, pack, to_tflite
from tfstruct.callbacks import Cluster


def main(epochs: int = 8) -> None:
    console = Console(width=120, highlight=False)
    (x, y), (test_x, test_y) = demo.digits()
    model = demo.train(x, y, epochs=epochs)

    def accuracy(predict) -> str:
        return f"{np.mean(np.argmax(predict(test_x), axis=1) == test_y):.1%}"

    plain = to_tflite(model, Recipe(precision="int8", calibration=x[:500]))
    console.print(f"plain int8: {accuracy(plain.predict)}, {pack(plain).report.packed:,} bytes packed")

    model.compile(keras.optimizers.Adam(3e-4), "sparse_categorical_crossentropy")
    cluster = Cluster(bits=4)
    model.fit(x, y, batch_size=64, epochs=epochs, verbose=0, callbacks=[cluster])
    console.print(cluster.report.table())
    # One step for a whole kernel, so that equal weights are equal integers.
    recipe = Recipe(precision="int8", calibration=x[:500], weight_limits=cluster.weight_limits)
    shared = to_tflite(model, recipe)
    console.print(f"16 values a kernel: {accuracy(shared.predict)}, {pack(shared).report.packed:,} bytes packed")


if __name__ == "__main__":
    main()
