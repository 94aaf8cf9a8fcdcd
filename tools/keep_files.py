"""Writes a file of every form that this version writes into `tests/data/VERSION`, for later versions to read.

    python tools/keep_files.py             once for each release; what is there stays, unless --again is given

The files are small, and made of one network and one set of samples, `network` and `data` here. What they shall give
when they are read lies beside them, in `expected.npz` and `expected.json`. `tests/test_kept_files.py` reads them.
"""

import json
import pathlib
import shutil
import sys
import warnings

import keras
import numpy as np

import tfstruct
from tfstruct import convert
from tfstruct.callbacks import Cluster, Prune, PruneChannels, QuantizeAware
from tfstruct.compression import steps
from tfstruct.quantize import Scheme, calibrate
from tfstruct.schedules import PolynomialRatio

DATA = pathlib.Path(__file__).resolve().parents[1] / "tests" / "data"
# Compressors in the middle of their work after one epoch of eight steps.
COMPRESSORS = {
    "Prune": lambda: Prune(PolynomialRatio(0.0, 0.75, 0, 14), frequency=2),
    "PruneChannels": lambda: PruneChannels({"macs": 0.5}, PolynomialRatio(0.0, 0.5, 0, 14), frequency=2),
    "QuantizeAware": QuantizeAware,
    "Cluster": lambda: Cluster(4),
}


def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    x = keras.Input((8,), name="x")
    hidden = keras.layers.Dense(12, activation="relu", name="hidden")(x)
    model = keras.Model(x, keras.layers.Dense(3, name="scores")(hidden), name="kept")
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    return model


def data(count: int = 32) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, 8)).astype("float32")
    return x, np.argmax(x[:, :3], axis=1)


class StopAfterOne(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = True


def compress(model: keras.Model, folder: pathlib.Path, strategy=None, **options):
    """A compression whose working folder is `folder`; it is taken up where that is full."""
    strategy = strategy or [steps.PruneChannels(widths={"hidden": 8}, gradual=False), steps.Quantize()]
    x, y = data(64)
    return tfstruct.compress(
        model, (x, y), (x, y), "tflite_bytes=100000", strategy=strategy, epochs=2, batch_size=16, workdir=folder,
        **options,
    )  # fmt: skip


def write(folder: pathlib.Path) -> None:
    """All files, into an empty folder."""
    x, y = data()
    plain = network()
    arrays, facts = {"x": x, "plain": plain.predict(x, verbose=0)}, {"keras": keras.__version__}
    plain.save(folder / "plain.keras")
    for name, new in COMPRESSORS.items():
        model = network()
        checkpoint = keras.callbacks.ModelCheckpoint(str(folder / f"{name}.keras"))
        callbacks = [new(), checkpoint, StopAfterOne()]
        model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0, callbacks=callbacks)
        arrays[name] = keras.models.load_model(folder / f"{name}.keras").predict(x, verbose=0)
    twin = calibrate(network(), x)
    twin.save(folder / "twin.keras")
    arrays["twin"] = twin.predict(x, verbose=0)

    plan = tfstruct.plan_channels(plain, "macs=60%")
    plan.save(folder / "plan.json")
    arrays["smaller"] = tfstruct.apply(plain, plan).predict(x, verbose=0)
    recipe = tfstruct.Recipe(
        precision="int8", layers={"scores": "float32"}, ranges={"x": (-4.0, 4.0)}, require={"sqnr_db": 10.0},
        preprocess=tfstruct.samples.Preprocess(scale=0.5, mean=(0.0,), std=(1.0,)),
    )  # fmt: skip
    (folder / "recipe.json").write_text(recipe.to_json())
    (folder / "scheme.json").write_text(Scheme("int8", layers={"scores": "int4"}, steps="learned").to_json())
    about = convert.Metadata("kept", license="MIT", outputs={"scores": {"labels": ["a", "b", "c"]}})
    lite = tfstruct.to_tflite(plain, "int8", calibration=x, verbose=0).with_metadata(about)
    lite.save(folder / "int8.tflite")
    tfstruct.pack(lite).save(folder / "tflite.tfpack")
    tfstruct.pack(plain).save(folder / "keras.tfpack")
    rows = [{"operator": "FULLY_CONNECTED", "shapes": [[1, 8], [12, 8], [12], [1, 12]], "microseconds": 2.5,
             "dtype": "int8", "processor": "m4"}]  # fmt: skip
    table = convert.LatencyTable.from_json(json.dumps({"schema": "tfstruct-latency-1", "rows": rows}))
    (folder / "latency.json").write_text(table.to_json())
    made = compress(keras.models.load_model(folder / "plain.keras"), folder / "compress")
    (folder / "report.json").write_text(made.report.to_json())
    arrays["compressed"] = made.model.predict(x, verbose=0)
    facts |= {"quality": made.report.result.quality, "tflite_bytes": len(made.file.content)}
    np.savez_compressed(folder / "expected.npz", **arrays)
    (folder / "expected.json").write_text(json.dumps(facts, indent=1))


def main() -> None:
    warnings.simplefilter("ignore")
    folder = DATA / tfstruct.__version__
    if folder.exists():
        if "--again" not in sys.argv[1:]:
            raise SystemExit(f"{folder} is there. A version keeps what it has written; --again writes it anew.")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    write(folder)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{folder}: {size:,} bytes")


if __name__ == "__main__":
    main()
