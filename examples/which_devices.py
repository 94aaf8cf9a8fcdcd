"""Where can this model run? All devices and boards in one table, before any training, and a board of one's own.

python examples/which_devices.py [folder]
"""

import pathlib
import sys

import keras

from tfstruct import check_target
from tfstruct.convert import Board, add_board


def sketch(activation: str, width: int = 16) -> keras.Model:
    """Untrained: operators, sizes and the arena are those of the trained model."""
    inputs = keras.Input((48, 48, 1), name="image")
    x = keras.layers.Conv2D(width, 3, strides=2, activation=activation, name="stem")(inputs)
    x = keras.layers.SeparableConv2D(2 * width, 3, strides=2, activation=activation, name="body")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, keras.layers.Dense(4, activation="softmax", name="kind")(x), name=activation)


def main(folder: str = "devices") -> None:
    path = pathlib.Path(folder)
    path.mkdir(exist_ok=True)

    table = check_target(sketch("gelu"), "all")
    print(table)
    table.save(path / "gelu.html")
    print("\nfits:", ", ".join(table.fitting))
    print("not known:", ", ".join(table.unknown))
    print(table["micro"].problem())

    better = check_target(sketch("relu6"), "all")
    print("\nwith relu6 it fits as well:", ", ".join(sorted(set(better.fitting) - set(table.fitting))))

    # A board that is in no table: what its memory holds.
    ours = Board("cortex-m4:ours", "our sensor, revision 2", flash_bytes=64 * 1024, ram_bytes=12 * 1024)
    add_board(ours)  # known by its name from here on, as with --boards FILE.toml
    for width in (32, 16, 8):
        report = check_target(sketch("relu6", width), "cortex-m4:ours")
        print(f"\n{width} channels: {'fits' if report.fits else report.problem()}")
        for memory in report.memory:
            print(f"  {memory.name} {memory}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
