"""A training run that can be killed, and what it ends with. As a program: python killed.py folder criterion [step]."""

import os
import signal
import sys

import keras
import numpy as np
from small import data, fit, network, schedule

from tfstruct.callbacks import Prune
from tfstruct.schedules import AutomaticRatio, ConstantRatio

CASES = {
    "magnitude": lambda: Prune(schedule(), frequency=3),
    "from the start": lambda: Prune(ConstantRatio(0.5), frequency=3),
    "global": lambda: Prune(schedule(), frequency=3, scope="global"),
    "movement": lambda: Prune(schedule(), frequency=3, criterion="movement"),
    "gradient": lambda: Prune(ConstantRatio(0.5, 0, 14), frequency=3, criterion="gradient", data=data()),
    "regrow": lambda: Prune(ConstantRatio(0.5, 0, 20), frequency=3, regrow=0.4, data=data()),
    "automatic": lambda: Prune(AutomaticRatio(0.75, 1, 16, tolerance=0.0), frequency=2),
    "2:4": lambda: Prune(pattern="2:4"),
}


class Killed(RuntimeError):
    pass


class KillAt(keras.callbacks.Callback):
    """Ends the run after a step: by an error, or for real."""

    def __init__(self, step: int | None, really: bool = False):
        super().__init__()
        self.left, self.really = step, really

    def on_train_batch_end(self, batch, logs=None):
        if self.left is None:
            return
        self.left -= 1
        if self.left == 0:
            if self.really:
                os.kill(os.getpid(), signal.SIGKILL)
            raise Killed


def run(folder, case: str, kill: int | None = None, first: bool = True, eager=True, really=False, **settings):
    """Three epochs of eight steps in a new model: its weights, its masks, and the callback."""
    model = network(eager=eager)
    prune = CASES[case]()
    backup = [] if folder is None else [keras.callbacks.BackupAndRestore(str(folder), **settings)]
    callbacks = [*backup, prune] if first else [prune, *backup]
    x, y = data()
    more = {"validation_data": (x[:8], -y[:8])} if case == "automatic" else {}
    fit(model, *callbacks, KillAt(kill, really), epochs=3, **more)
    return model.get_weights(), prune._saved, prune


if __name__ == "__main__":
    weights, _, prune = run(sys.argv[1], sys.argv[2], int(sys.argv[3]) if sys.argv[3:] else None, really=True)
    np.savez(os.path.join(sys.argv[1] + "-end.npz"), *weights)
