"""What is killed: jobs of a second or more that keep what they have done in a folder, and what they end with.

Each is a function of that folder. Called again after a kill, it goes on or begins anew; what it gives back, plain data,
is the same either way.
"""

import contextlib
import functools
import gc
import hashlib
import io
import json
import os
import pathlib
import pickle
import resource
import shutil
import signal
import sys
import tempfile

import keras
import numpy as np
from compression.small_tasks import points
from compressors import COMPRESSORS, relu_network
from forking import STEP, not_killed
from small import data, fit

import tfstruct
from tfstruct.callbacks import Cluster, Prune, PruneChannels, QuantizeAware
from tfstruct.cli import commands, exit_status
from tfstruct.compression import Search
from tfstruct.convert import worker
from tfstruct.distill import Distill, cached
from tfstruct.errors import TfstructError
from tfstruct.schedules import PolynomialRatio

L = keras.layers
_TIMES = ("seconds", "versions", "processor", "latency", "latency_us", "data", "throughput")


class Steps(keras.callbacks.Callback):
    """Tells `forking` of each step, and notes what compressors would write into a file at the end of each epoch."""

    def __init__(self, compressors=()):
        super().__init__()
        self.compressors, self.states = compressors, {}

    def on_train_batch_end(self, batch, logs=None):
        sys.audit(STEP)

    def on_epoch_end(self, epoch, logs=None):
        self.states = {
            f"{type(one).__name__} {name}": digest(np.asarray(value))
            for one in self.compressors
            for name, value in one._saved_state().items()
        }


def digest(content) -> str:
    if isinstance(content, np.ndarray):
        if content.dtype.kind in "iufb":
            content = content.astype(float)
        content = f"{content.shape}".encode() + np.ascontiguousarray(content).tobytes()
    return hashlib.sha256(content).hexdigest()[:16]


def weights(model) -> list[str]:
    return [digest(w) for w in model.get_weights()]


def told(report, *without: str):
    """A report as plain data, without what differs from run to run."""

    def cut(data):
        if isinstance(data, dict):
            return {k: cut(v) for k, v in data.items() if not any(word in k for word in (*_TIMES, *without))}
        return [cut(v) for v in data] if isinstance(data, list) else data

    return cut(json.loads(report.to_json()))


# Training


def teacher():
    return relu_network()


TOGETHER = {
    "Prune, Cluster, QuantizeAware, Distill": lambda: [
        COMPRESSORS["Prune"](), Cluster(4), QuantizeAware(), Distill(teacher()),
    ],
    "PruneChannels, QuantizeAware, Distill": lambda: [
        COMPRESSORS["PruneChannels"](), QuantizeAware(), Distill(teacher()),
    ],
}  # fmt: skip
FITS = {**{name: functools.partial(lambda make: [make()], make) for name, make in COMPRESSORS.items()}, **TOGETHER}


class Backup(keras.callbacks.BackupAndRestore):
    """Keras's own writing of its two files is not ours to keep whole: see docs/reliability.md."""

    def _save_model(self):
        with not_killed():
            super()._save_model()

    def on_train_end(self, logs=None):
        with not_killed():
            super().on_train_end(logs)


def fitted(folder: pathlib.Path, compressors: str) -> dict:
    """Three epochs of eight steps with BackupAndRestore."""
    model, ours = relu_network(), FITS[compressors]()
    steps = Steps(ours)
    backup = Backup(str(folder / "backup"))
    fit(model, backup, *ours, steps, epochs=3)
    reports = [told(one.report) for one in ours]
    return {"weights": weights(model), "states": steps.states, "reports": reports}


# Conversion


def images(count: int = 32) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 8, 8, 1)).astype("float32")


def convnet() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1), name="image")
    x = L.Conv2D(8, 3, padding="same", activation="relu", name="conv")(inputs)
    x = L.GlobalAveragePooling2D(name="pool")(L.Conv2D(8, 3, padding="same", activation="relu", name="more")(x))
    return keras.Model(inputs, L.Dense(4, name="logits")(x), name="convnet")


def converted(folder: pathlib.Path) -> dict:
    """A file with its report and its C arrays beside it; what an earlier call has written is written over."""
    out = folder / "out"
    out.mkdir(exist_ok=True)
    file = tfstruct.to_tflite(convnet(), "int8", calibration=images(), verification=images(), verbose=0)
    file.save(out / "model.tflite")
    for name in ("report.md", "report.html", "report.json"):
        file.report.save(out / name)
    tfstruct.convert.micro.write_c_array(file.content, out / "model.tflite")
    return {"file": digest(file.content), "files": in_folder(out)}


def in_folder(folder: pathlib.Path) -> dict[str, str]:
    """Of each file below a folder, what is in it, as far as that is the same at each run."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        content = path.read_bytes()
        same = path.suffix in (".tflite", ".cc", ".h", ".npy")
        found[str(path.relative_to(folder))] = digest(content) if same else ""
    return found


# Saving


def prepare(folder: pathlib.Path) -> dict:
    """What `saved` writes: made once, as making it takes seconds."""
    file = tfstruct.to_tflite(convnet(), "int8", calibration=images(), verification=images(), verbose=0)
    plan = tfstruct.plan_channels(convnet(), "macs=60%")
    made = (file, plan, tfstruct.convert.test_vectors(file, images(4)))
    (folder / "made.pickle").write_bytes(pickle.dumps(made))
    return {}


def saved(folder: pathlib.Path, made: str) -> dict:
    """Everything that can be saved."""
    file, plan, vectors = pickle.loads(pathlib.Path(made).read_bytes())
    out = folder / "out"
    out.mkdir(exist_ok=True)
    file.save(out / "model.tflite")
    for name in ("report.md", "report.html", "report.json"):
        file.report.save(out / name)
    plan.save(out / "plan.json")
    tfstruct.convert.pack(file.content).save(out / "model.tfpack")
    vectors.save(out / "vectors")
    tfstruct.files.save_model(convnet(), out / "model.keras")
    # By an earlier call it may be there.
    with contextlib.suppress(FileExistsError), tfstruct.files.folder_atomic(out / "folder") as beside:
        file.save(pathlib.Path(beside) / "model.tflite")
        file.report.save(pathlib.Path(beside) / "report.json")
    batches = images(24).reshape(3, 8, 8, 8, 1)
    import tensorflow as tf

    list(cached(convnet(), tf.data.Dataset.from_tensor_slices(batches), out / "teacher.rows"))
    keras.models.load_model(out / "model.keras")
    return {"files": in_folder(out), "plan": tfstruct.surgery.Plan.load(out / "plan.json") == plan}


# Compression


def trained() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((12,))
    x = L.Dense(16, activation="relu", name="stem")(inputs)
    y = L.ReLU(name="relu")(L.BatchNormalization(momentum=0.9, name="norm")(L.Dense(32, name="inner")(x)))
    x = L.Add(name="join")([x, L.Dense(16, name="back")(y)])
    model = keras.Model(inputs, L.Dense(4, activation="softmax", name="classes")(L.Dropout(0.1)(x)), name="small")
    model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy", jit_compile=False)
    model.fit(*points(256, 0), epochs=4, batch_size=32, verbose=0)
    return model


def trained_once(folder: pathlib.Path) -> dict:
    trained().save(folder / "trained.keras")
    return {}


def compressed(folder: pathlib.Path, model: str, strategy="auto") -> dict:
    made = tfstruct.compress(
        keras.models.load_model(model), points(128, 1), points(64, 2), "macs=60%", epochs=4, batch_size=16,
        learning_rate=1e-2, workdir=folder / "work", verbose=0, strategy=strategy, test=points(64, 3),
    )  # fmt: skip
    return {"file": digest(made.file.content), "weights": weights(made.model), "report": told(made.report)}


def searched(folder: pathlib.Path, model: str, workers: int = 0) -> dict:
    search = Search(trials=4, generation=3, workers=workers, objectives=("quality", "macs", "tflite_bytes"))
    made = tfstruct.compress(
        keras.models.load_model(model), points(128, 1), points(64, 2), "macs=70%", epochs=1, batch_size=32,
        learning_rate=1e-2, workdir=folder / "work", verbose=0, strategy=search,
    )  # fmt: skip
    return {"file": digest(made.file.content), "report": told(made.report)}


# Commands, and calls with something taken away


def command(folder: pathlib.Path, arguments: list[str], temporary: str | None = None, limit: int | None = None) -> dict:
    """`tfstruct` with these arguments: its status, and what it writes to stderr.

    Args:
        temporary: another temporary folder.
        limit: bytes that a file may have at most.
    """
    if temporary is not None:
        os.environ["TMPDIR"], tempfile.tempdir = temporary, None
    if limit is not None:
        nowhere = os.open(os.devnull, os.O_WRONLY)  # logs count as files
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    os.chdir(folder)
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        signal.signal(signal.SIGTERM, exit_status._end)
        status = commands.main(arguments)
    return {"status": status, "said": said.getvalue()}


def files(folder: pathlib.Path) -> dict:
    """What the commands read."""
    convnet().save(folder / "model.keras")
    trained().save(folder / "trained.keras")
    np.save(folder / "images.npy", images())
    for name, count, seed in (("train", 128, 1), ("validation", 64, 2)):
        x, y = points(count, seed)
        np.savez(folder / f"{name}.npz", x=x, y=y)
    return {}


def without_a_folder(folder: pathlib.Path, call: str, what: str, stage: str | None) -> dict:
    """A call while one of its folders is removed at a stage.

    Args:
        what: the glob of the folders, from the temporary folder or `folder`.
        stage: the n-th stage that the call tells of, or None.
    """
    seen: list[str] = []

    def remove(name) -> None:
        if name not in seen:
            seen.append(name)
            if name == stage:
                for path in [*folder.glob(what), *pathlib.Path(tempfile.gettempdir()).glob(what)]:
                    shutil.rmtree(path, ignore_errors=True)

    try:
        if call == "convert":
            file = tfstruct.to_tflite(
                convnet(), "int8", calibration=images(), verification=images(), progress=lambda name, *_: remove(name)
            )
            file.save(folder / "model.tflite")
            result = digest(file.content)
        else:
            made = tfstruct.compress(
                trained(), points(128, 1), points(64, 2), "macs=60%", epochs=2, batch_size=32, verbose=0,
                workdir=folder / "work", progress=lambda state: remove(state.stage),
            )  # fmt: skip
            result = digest(made.file.content)
        error = ""
    except Exception as caught:
        result, error = (
            "",
            f"{'TfstructError' if isinstance(caught, TfstructError) else type(caught).__name__}: {caught}",
        )
    again = digest(tfstruct.to_tflite(convnet(), "int8", calibration=images(), verbose=0).content)
    return {"stages": seen, "error": error, "result": result, "again": again}


def with_little_memory(folder: pathlib.Path, megabytes: int) -> dict:
    """A conversion whose child may take only so much more memory than it has."""
    tfstruct.to_tflite(convnet(), "int8", calibration=images(), verbose=0).save(folder / "model.tflite")
    before = digest((folder / "model.tflite").read_bytes())
    child = worker.take()
    held = int(pathlib.Path(f"/proc/{child.number}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.prlimit(child.number, resource.RLIMIT_AS, (held + (megabytes << 20),) * 2)
    worker.give_back(child)
    error = ""
    try:
        tfstruct.to_tflite(convnet(), "int8", calibration=images(), verbose=0).save(folder / "model.tflite")
    except TfstructError as caught:
        error = f"{type(caught).__name__}: {caught}"
    after = digest((folder / "model.tflite").read_bytes())
    again = digest(tfstruct.to_tflite(convnet(), "int8", calibration=images(), verbose=0).content)
    return {"error": error, "before": before, "after": after, "again": again}


# Long runs


def held() -> dict[str, int]:
    """What the process holds: bytes of memory, open files, threads, temporary folders of ours."""
    gc.collect()
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return {
        "memory": pages * os.sysconf("SC_PAGE_SIZE"), "files": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "folders": len([name for name in os.listdir(tempfile.gettempdir()) if "tfstruct" in name]),
    }  # fmt: skip


def slow_schedule(count: int) -> PolynomialRatio:
    return PolynomialRatio(0.0, 0.75, 0, count - count // 10)


LONG = {
    "Prune": lambda count: [Prune(slow_schedule(count), frequency=10)],
    "Prune movement": lambda count: [Prune(slow_schedule(count), frequency=10, criterion="movement")],
    "Prune regrow": lambda count: [
        Prune(slow_schedule(count), frequency=10, regrow=0.3, data=data(), loss="mean_squared_error")
    ],
    "PruneChannels": lambda count: [PruneChannels({"macs": 0.5}, PolynomialRatio(0.0, 0.5, 0, count), frequency=50)],
    "QuantizeAware": lambda count: [QuantizeAware()],
    "Cluster": lambda count: [Cluster(4)],
    "Distill": lambda count: [Distill(teacher())],
    "Prune, Cluster, QuantizeAware, Distill": lambda count: [
        Prune(slow_schedule(count), frequency=10), Cluster(4), QuantizeAware(), Distill(teacher()),
    ],
    "PruneChannels, QuantizeAware, Distill": lambda count: [
        PruneChannels({"macs": 0.5}, PolynomialRatio(0.0, 0.5, 0, count), frequency=50), QuantizeAware(),
        Distill(teacher()),
    ],
}  # fmt: skip


def long_fit(folder: pathlib.Path, compressors: str, count: int) -> dict:
    """So many steps of `fit`, in ten epochs: what is held after each, and how often the step was traced."""
    model, ours, seen, traced = relu_network(), LONG[compressors](count), [], []

    def loss(y, predicted):
        traced.append(1)
        return keras.losses.mean_squared_error(y, predicted)

    model.compile(keras.optimizers.Adam(1e-3), loss, jit_compile=False)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4 * count // 10, 8)), rng.normal(size=(4 * count // 10, 4))
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append({**held(), "traced": len(traced)})
    )
    model.fit(x, y, batch_size=4, epochs=10, shuffle=False, verbose=0, callbacks=[*ours, note])
    return {"held": seen}


def many_conversions(folder: pathlib.Path, count: int) -> dict:
    """So many conversions in this process, to int8 and to float32 by turns: what is held after each."""
    model, seen, made = convnet(), [], set()
    for i in range(count):
        precision = ("int8", "float32")[i % 2]
        calibration = {"calibration": images()} if precision == "int8" else {}
        made.add(digest(tfstruct.to_tflite(model, precision, verification=images(8), verbose=0, **calibration).content))
        seen.append(held())
    return {"held": seen, "files": len(made)}


# Distribution


def mirrored(folder: pathlib.Path, replicas: int, compressors: str) -> dict:
    """Three epochs on so many replicas on one processor: kernels, masks, ranges, and the plan of what is left."""
    import tensorflow as tf

    one = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [one] * replicas)
    strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])
    with strategy.scope() if replicas > 1 else contextlib.nullcontext():
        model = relu_network(keras.optimizers.SGD(0.05))
        ours = FITS[compressors]()
    fit(model, *ours, epochs=3, batch_size=8)
    kernels = [model.get_layer(name).kernel.numpy() for name in ("one", "two")]
    ranges = next((one.ranges for one in ours if isinstance(one, QuantizeAware)), {})
    plan = tfstruct.plan_channels(model, "macs=60%")
    return {
        "kernels": [k.tolist() for k in kernels], "masks": [(k != 0).tolist() for k in kernels],
        "values": [[len(np.unique(k))] for k in kernels], "ranges": {k: list(map(float, v)) for k, v in ranges.items()},
        "plan": plan.to_dict(), "history": [told(one.report).get("history") for one in ours],
    }  # fmt: skip


JOBS = {
    "fit": fitted, "convert": converted, "prepare": prepare, "save": saved, "trained": trained_once, "files": files,
    "compress": compressed, "search": searched, "command": command, "without": without_a_folder,
    "memory": with_little_memory, "long": long_fit, "conversions": many_conversions, "mirrored": mirrored,
}  # fmt: skip

if __name__ == "__main__":
    print(json.dumps(JOBS[sys.argv[1]](pathlib.Path(sys.argv[2]), **json.loads((sys.argv[3:] or ["{}"])[0])), indent=1))
    os._exit(0)
