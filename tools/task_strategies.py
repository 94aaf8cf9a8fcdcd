"""Four tasks compressed by "auto" and by the best strategy by hand: `python tools/bench.py tasks`.

The tasks of examples/compress_tasks.py, at a half and at a quarter of the bytes of their plain int8 files. By hand is
the best, on the validation data, of strategies that a user would write down first. The test data chooses nothing.
"""

import pathlib
import sys

import keras
import numpy as np
from interleaved import Table
from nearest import compressed

from tfstruct.compression.steps import Factorize, PruneChannels, Quantize
from tfstruct.errors import BudgetError, TfstructError

sys.path.append(str(pathlib.Path(__file__).parents[1] / "examples"))

NAMES, SHARES, EPOCHS, RATE = ("image", "sensors", "machine", "text"), (0.5, 0.25), 30, 3e-3


def by_hand(share: float) -> dict[str, list]:
    """Channels go; half of what has to go is weights of 4 bits; large kernels become factors and then channels go."""
    budget = {"tflite_bytes": share}
    return {
        "channels": [PruneChannels(budget=budget), Quantize(precision="int8")],
        "channels, 4 bits": [PruneChannels(budget={"tflite_bytes": min(1.5 * share, 0.9)}), Quantize(precision="int4")],
        "factors, channels": [
            Factorize(energy=0.9, epochs=0), PruneChannels(budget={"params": share}), Quantize(precision="int8"),
        ],
    }  # fmt: skip


def tasks(rounds: int, quick: bool = False, folder: str | None = None) -> None:
    """Test scores in percent, and bytes as a share of those of plain int8."""
    names, shares, epochs = (NAMES[1:2], SHARES[:1], 2) if quick else (NAMES, SHARES, EPOCHS)
    table = Table("tasks", f"{epochs} epochs, test scores in percent", {"epochs": epochs}, folder)
    for name in names:
        for share in shares:
            table.row(f"{name}, {share:g} of the bytes", lambda n=name, s=share: _row(n, s, epochs))
        keras.backend.clear_session()
    table.show()


def _row(name: str, share: float, epochs: int) -> dict:
    import compress_tasks

    make, machine = getattr(compress_tasks, name), name == "machine"
    keras.utils.set_random_seed(0)
    model, train, validation, test = make(np.random.default_rng(0))
    rate = keras.optimizers.schedules.CosineDecay(RATE, epochs * -(-len(train[0]) // 64))
    model.compile(keras.optimizers.Adam(rate), "mse" if machine else "sparse_categorical_crossentropy")
    model.fit(*train, batch_size=64, epochs=epochs, verbose=0)
    metric = {"metric": compress_tasks.area_under_roc_curve, "greater_is_better": True} if machine else {}

    def made(strategy):
        return compressed(
            model, train, validation, {"tflite_bytes": share}, strategy=strategy, test=test, epochs=epochs,
            learning_rate=RATE, **metric,
        ).report  # fmt: skip

    try:
        auto = made("auto")
    except BudgetError as error:  # nothing that is so small
        return {"which": str(error)}
    print(auto, flush=True)
    given = {}
    for what, strategy in by_hand(share).items():
        try:
            given[what] = made(strategy)
        except TfstructError as error:  # a strategy that does not fit the model
            print(name, share, what, error, flush=True)
    met = {what: report for what, report in given.items() if report.met}
    best = max(met, key=lambda what: met[what].result.quality, default="")
    row = {"original": auto.test.get("original"), "plain int8": auto.test.get("plain"), "auto": auto.test.get("result")}
    row = {what: None if value is None else 100 * value for what, value in row.items()}
    row["bytes of auto"] = auto.result.tflite_bytes / auto.plain.tflite_bytes
    if best:
        row |= {
            "by hand": 100 * met[best].test["result"], "which": best,
            "bytes by hand": met[best].result.tflite_bytes / auto.plain.tflite_bytes,
        }  # fmt: skip
    row["validation, all by hand"] = "; ".join(
        f"{what} {100 * report.result.quality:.2f}{'' if report.met else ' (too large)'}"
        for what, report in given.items()
    )
    return row
