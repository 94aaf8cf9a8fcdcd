"""A keyword spotter at half of the bytes of its int8 file: `python tools/bench.py keywords`.

The depthwise separable network of MLPerf Tiny (five blocks of 64 channels), on the words that
examples/scene_keywords.py generates. Beside it a narrower network that is trained from scratch for as long, on labels
alone, as wide as its file may be.
"""

import pathlib
import sys

import keras
import numpy as np
from accuracy_tasks import of_file
from decision_times import with_vectors
from interleaved import Table
from nearest import compressed

import tfstruct
from tfstruct import Recipe, to_tflite
from tfstruct.convert.draft import draft

sys.path.append(str(pathlib.Path(__file__).parents[1] / "examples"))

SAMPLES, EPOCHS, BATCH, RATE, SEEDS = 2000, 10, 32, 3e-3, 3
layers = keras.layers


def network(width: int = 64, classes: int = 10) -> keras.Model:
    def rest(x):
        return layers.ReLU()(layers.BatchNormalization()(x))

    x = spectra = keras.Input((49, 32, 1), name="log_mel")
    x = layers.Dropout(0.2)(rest(layers.Conv2D(width, (10, 4), (2, 2), "same", use_bias=False)(x)))
    for _ in range(4):
        x = rest(layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x))
        x = rest(layers.Conv2D(width, 1, use_bias=False)(x))
    x = layers.Dropout(0.4)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(spectra, layers.Dense(classes, activation="softmax")(x), name="keywords")


def keywords(rounds: int, quick: bool = False, folder: str | None = None) -> None:
    """Test accuracy in percent and bytes: the float network, its int8 file, half of it by "auto" and from scratch."""
    seeds, epochs = (1, 2) if quick else (SEEDS, EPOCHS)
    title = f"a keyword spotter, {SAMPLES:,} samples, {epochs} epochs"
    table = Table("keywords", title, {"seeds": seeds, "epochs": epochs}, folder)
    for seed in range(seeds):
        keys = [f"seed {seed}: {what}" for what in ("float32", "int8", "half by auto", "half from scratch")]
        if not table.rows.keys() >= {*keys}:
            for key, row in zip(keys, _rows(seed, epochs), strict=True):
                table.row(key, lambda row=row: row)
    table.show()


def _rows(seed: int, epochs: int) -> list[dict]:
    from scene_keywords import heard

    data, validation, test = heard(SAMPLES, 10 * seed), heard(500, 10 * seed + 1), heard(1000, 10 * seed + 2)
    keras.utils.set_random_seed(seed)
    model = _trained(network(), data, epochs)
    plain = _int8(model, data)
    narrow = _trained(_within(len(plain) // 2), data, epochs)
    made = compressed(
        model, data, validation, "tflite_bytes=50%", epochs=epochs, batch_size=BATCH, learning_rate=RATE, seed=seed
    )
    print(made.report, flush=True)
    scratch = _int8(narrow, data)
    files = [plain, made.file.content, scratch]
    whole = {"accuracy": 100 * float(np.mean(model.predict(test[0], verbose=0).argmax(1) == test[1]))}
    return [whole, *({"accuracy": of_file(file, test), "bytes": len(file)} for file in files)]


def _trained(model, data, epochs: int):
    schedule = keras.optimizers.schedules.CosineDecay(RATE, epochs * -(-len(data[0]) // BATCH))
    model.compile(keras.optimizers.Adam(schedule), "sparse_categorical_crossentropy")
    model.fit(*data, batch_size=BATCH, epochs=epochs, verbose=0)
    tfstruct.recalibrate_batch_norm(model, data[0][:1000])
    return model


def _within(size: int) -> keras.Model:
    """The widest whose int8 file has so many bytes at most."""
    width = next(width for width in range(64, 3, -2) if len(draft(with_vectors(network(width)))[0]) <= size)
    return network(width)


def _int8(model, data) -> bytes:
    return to_tflite(model, Recipe("int8", calibration=data[0][:500], measure_latency=False)).content
