"""How small a pruned network becomes for transport, what each way of packing gives, and back, bit by bit.

python examples/pack_model.py
"""

import pathlib
import tempfile

import keras
import numpy as np
from rich.console import Console

import tfstruct
from tfstruct import Recipe, demo, to_tflite
from tfstruct.callbacks import Prune
from tfstruct.convert import compress_for_micro, micro
from tfstruct.schedules import PolynomialRatio

BATCH = 64


def main(epochs: int = 8) -> None:
    console = Console(width=140, highlight=False)
    (x, y), (test_x, test_y) = demo.digits()
    model = demo.train(x, y, epochs=epochs)

    # Nine of ten weights of the large convolutions go to zero.
    steps = epochs * -(-len(x) // BATCH)
    model.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy")
    schedule = PolynomialRatio(0.0, 0.9, begin=0, end=3 * steps // 4)
    model.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=0, callbacks=[Prune(schedule, layers=["conv2", "conv3"])])
    accuracy = float((model.predict(test_x, verbose=0).argmax(1) == test_y).mean())
    file = to_tflite(model, Recipe(precision="int8", calibration=x))

    for packed in (tfstruct.pack(model), tfstruct.pack(file)):
        console.print(packed.report.table())
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "model.tfpack")
            packed.save(path)
            again = tfstruct.unpack(path)
        if packed.report.kind == "tflite":
            equal = again == file.content
        else:
            equal = np.array_equal(again.predict(test_x, verbose=0), model.predict(test_x, verbose=0))
        console.print(f"{packed.report.kind}: {packed.report.packed:,} bytes packed, comes back equal: {equal}")
    console.print(f"test accuracy {accuracy:.1%}")

    if micro.version() is not None:
        smaller = compress_for_micro(file)
        console.print(f"for tflite-micro, with lookup tables: {len(smaller):,} of {len(file.content):,} bytes")


if __name__ == "__main__":
    main()
