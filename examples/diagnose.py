"""Two runs that go wrong on the shipped digits, and what `callbacks.Diagnose` says about them; then a healthy one.

python examples/diagnose.py
"""

import keras
from rich.console import Console

from tfstruct import demo
from tfstruct.callbacks import Diagnose

layers = keras.layers


def network(activation: str, depth: int) -> keras.Model:
    hidden = [layers.Dense(32, activation, name=f"hidden{i}") for i in range(depth)]
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="digit"),
            layers.Rescaling(1 / 16, name="rescale"),
            layers.Flatten(name="flatten"),
            *hidden,
            layers.Dense(10, name="classes"),
        ],
        name=f"{activation}{depth}",
    )


def watched(model: keras.Model, optimizer, data, held, epochs: int) -> Diagnose:
    """Trains a model as anyone would, with one callback more."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    diagnose = Diagnose(verbose=0)  # verbose=1 prints a finding as soon as it is seen
    history = model.fit(*data, epochs=epochs, verbose=0, validation_data=held, callbacks=[diagnose])
    print(f"{model.name}: validation accuracy {history.history['val_accuracy'][-1]:.1%}")
    return diagnose


def main(epochs: int = 5) -> None:
    keras.utils.set_random_seed(0)
    console = Console(width=120)
    data, held = demo.digits()

    # Sigmoids pass a quarter of the gradient at most: after 20 of them nothing arrives.
    deep = watched(network("sigmoid", 20), keras.optimizers.SGD(0.1), data, held, epochs)
    console.print(deep.report.table())
    last = deep.report.probes[-1]
    for name in ("hidden0", "hidden10", "classes"):
        console.print(f"gradient of {name}: {last.layers[name].gradient:.1e}", highlight=False)

    # A hundred times the rate that works below.
    fast = watched(network("relu", 2), keras.optimizers.SGD(10.0), data, held, epochs)
    console.print(fast.report.table())

    healthy = watched(network("relu", 2), keras.optimizers.SGD(0.1), data, held, epochs)
    console.print(str(healthy.report))


if __name__ == "__main__":
    main()
