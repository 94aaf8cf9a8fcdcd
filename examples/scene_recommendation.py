"""Recommendation with two towers: the item tower becomes a table, the user tower a file for the phone.

python examples/scene_recommendation.py [FOLDER]

The clicks are generated: users have tastes, items have kinds, a few items are clicked often and most hardly ever. A
user is a history of clicked items; the model puts the item that is clicked next near to it.
"""

import pathlib
import sys

import keras
import numpy as np
from keras import layers, ops

import tfstruct
from tfstruct import surgery

ITEMS, HISTORY, WIDTH = 3000, 12, 32


def clicks(users: int, seed: int):
    """(histories of ids, 0 where there is none; the id that is clicked next)."""
    world = np.random.default_rng(0)
    kinds = world.normal(size=(ITEMS, 6))
    popular = -1.1 * np.log(np.arange(1, ITEMS + 1)) + np.log(world.random(ITEMS) + 0.05)
    popular[ITEMS // 2 :] = -np.inf  # half of the catalogue is not sold any more
    popular[0] = -np.inf  # the id of what is missing
    rng = np.random.default_rng(seed)
    tastes = rng.normal(size=(users, 6)) @ np.diag([3, 3, 2, 2, 1, 1])
    scores = tastes @ kinds.T + popular + rng.gumbel(size=(users, ITEMS))  # Gumbel: draws by softmax, without repeats
    chosen = rng.permuted(np.argsort(-scores)[:, : HISTORY + 1], axis=1)
    histories = chosen[:, :HISTORY] * (np.arange(HISTORY) < rng.integers(4, HISTORY + 1, (users, 1)))
    return histories.astype("int32"), chosen[:, HISTORY].astype("int32")


def towers() -> tuple[keras.Model, keras.Model]:
    """(user tower, item tower): vectors of length one."""
    history = keras.Input((HISTORY,), dtype="int32", name="history")
    x = layers.Embedding(ITEMS, WIDTH, name="clicked")(history)
    x = layers.GlobalAveragePooling1D()(layers.Dense(128, activation="relu", name="each")(x))
    x = layers.Dense(128, activation="relu", name="together")(x)
    user = keras.Model(history, layers.UnitNormalization()(layers.Dense(WIDTH, name="user")(x)), name="user_tower")
    item = keras.Input((1,), dtype="int32", name="item")
    x = layers.Flatten()(layers.Embedding(ITEMS, WIDTH, name="items")(item))
    return user, keras.Model(item, layers.UnitNormalization()(layers.Dense(WIDTH)(x)), name="item_tower")


def among_others(labels, scores):
    """Cross-entropy of the clicked item among those of the batch; `labels` are ids, which may be there twice."""
    ids = ops.reshape(labels, (-1, 1))
    same = ops.cast(ids == ops.transpose(ids), scores.dtype)
    found = ops.exp(10.0 * scores)
    return ops.log(ops.sum(found, axis=1)) - ops.log(ops.sum(same * found, axis=1))


def fit(user: keras.Model, item: keras.Model, data, rate: float, epochs: int) -> None:
    """Both towers, each pair of a batch against all others of it."""
    both = keras.Model([user.input, item.input], ops.matmul(user.output, ops.transpose(item.output)), name="both")
    both.compile(keras.optimizers.Adam(rate), among_others)
    histories, clicked = data
    both.fit([histories, clicked[:, None]], clicked, batch_size=256, epochs=epochs, verbose=0)


def hit_rate(vectors, catalogue, data, count: int = 20) -> float:
    """How often the next click is among the `count` nearest items that were not clicked before."""
    histories, clicked = data
    scores = np.asarray(vectors) @ catalogue.T
    np.put_along_axis(scores, histories, -np.inf, axis=1)
    return float(np.mean((np.argsort(-scores, axis=1)[:, :count] == clicked[:, None]).any(axis=1)))


def main(folder: str = ".", epochs: int = 12, users: int = 20_000) -> dict[str, float]:
    keras.utils.set_random_seed(0)
    train, test = clicks(users, 1), clicks(2000, 2)
    user, item = towers()
    fit(user, item, train, 2e-3, epochs)
    catalogue = item.predict(np.arange(ITEMS)[:, None], verbose=0)
    popular = np.bincount(train[1], minlength=ITEMS)[None].astype("float32")
    scores = {"what all others click": hit_rate(np.ones((len(test[1]), 1)), popular.T, test)}
    scores["trained"] = hit_rate(user.predict(test[0], verbose=0), catalogue, test)

    # Tables are most of such a model, and rows that no data uses are most of the tables.
    found = surgery.prune_vocabulary(user, train[0], keep=[0], unknown=0)
    print(found.report)
    smaller = found.model
    known = found.report.map(test[0])  # ids that went are as unknown as none
    scores["rows of unused items gone"] = hit_rate(smaller.predict(known, verbose=0), catalogue, test)

    sizes = {"float32": tfstruct.to_tflite(user, "float32", measure_latency=False).report.size}
    for precision in ("int8", "int4"):
        file = tfstruct.to_tflite(
            smaller, precision, calibration=found.report.map(train[0][:500]), verification=known,
            float_io=True, allow_float=True, measure_latency=False,
        )  # fmt: skip
        sizes[precision] = file.report.size
        scores[f"{precision} file"] = hit_rate(file.predict(known), catalogue, test)
        file.save(pathlib.Path(folder) / f"user_tower.{precision}.tflite")
    found.report.save(pathlib.Path(folder) / "ids.json")  # old ids to new ones, for the app
    np.save(pathlib.Path(folder) / "catalogue.npy", catalogue.astype("float16"))  # the index of the server, or the app
    for what, score in scores.items():
        print(f"{what}: {score:.1%} of the next clicks among the first 20")
    print(", ".join(f"{precision} {size:,} bytes" for precision, size in sizes.items()))
    return scores


if __name__ == "__main__":
    main(*sys.argv[1:])
