"""Strategies and ratios searched for: the Pareto front of quality, bytes and multiply-accumulates, and the best.

python examples/search.py [FOLDER [WORKERS]]

With a folder every trial is kept there, figures in its search.db: killed and started again, the search goes on to the
same front. With workers (`pip install 'tfstruct[ray]'`) as many processes carry out the trials; on a Ray cluster give
Search(workers=..., address="ray://...") and a folder that all machines see.
"""

import sys

import keras
from rich.console import Console

from tfstruct import demo
from tfstruct.compression import Search, Settings, Task, search_strategies

layers = keras.layers


def build() -> keras.Model:
    inputs = keras.Input((8, 8, 1), name="digit")
    x = layers.Rescaling(1 / 16)(inputs)
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="stem")(x)
    y = layers.Conv2D(32, 3, padding="same", activation="relu", name="inner")(x)
    x = layers.Add(name="join")([x, layers.Conv2D(16, 1, name="back")(y)])
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax", name="classes")(x), name="digits")


def main(folder: str | None = None, workers: str = "0", trials: int = 6, epochs: int = 4) -> None:
    console = Console(width=140, highlight=False)
    (x, y), _ = demo.digits()
    train, validation = (x[:1000], y[:1000]), (x[1000:], y[1000:])
    keras.utils.set_random_seed(0)
    model = build()
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(*train, batch_size=64, epochs=3 * epochs, verbose=0)

    settings = Settings(epochs=epochs, learning_rate=3e-3)
    search = Search(trials=trials, generation=3, workers=int(workers))
    with Task(model, train, validation, "accuracy_drop=3%,macs=70%", settings=settings, workdir=folder) as task:
        found = search_strategies(task, search)
        console.print(found.table())
        for trial in found.trials:
            if trial.candidate is None:
                console.print(f"not carried out: {trial}")
        best = found.best
        console.print(f"plain int8: {task.plain}")
        console.print(f"best: {best.candidate}")
        if folder is not None:
            best.made(task).file.save(f"{folder}/best.tflite")
            found.plot(f"{folder}/front.png")


if __name__ == "__main__":
    main(*sys.argv[1:3])
