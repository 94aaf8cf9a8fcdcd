"""Segmentation with a U-Net: half of its work cut through the skip connections, trained quantized, one int8 file.

python examples/scene_segmentation.py [FOLDER]

The images are handwritten digits, on a ground of stripes and noise; the mask says which pixels are ink.
"""

import pathlib
import sys

import keras
import numpy as np
from keras import layers

import tfstruct
from tfstruct import demo
from tfstruct.callbacks import QuantizeAware


def scenes(digits, count: int, seed: int, size: int = 32):
    """(images in 0..1, masks of 0 and 1), each with two digits at twice their size, which may overlap."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    angle, wave = rng.uniform(0, np.pi, (count, 1, 1)), rng.uniform(0.4, 1.5, (count, 1, 1))
    stripes = np.sin(wave * (np.cos(angle) * x + np.sin(angle) * y) + rng.uniform(0, 6, (count, 1, 1)))
    ink = np.zeros((count, size, size))
    for i in range(count):
        for digit in digits[rng.integers(0, len(digits), 2), :, :, 0] / 16:
            top, left = rng.integers(0, size - 16, 2)
            place = ink[i, top : top + 16, left : left + 16]
            np.maximum(place, np.kron(digit, np.ones((2, 2))), out=place)
    ground = 0.5 + 0.25 * stripes + rng.normal(0, 0.08, ink.shape)
    images = np.clip(np.where(ink > 0.4, 0.35 + 0.5 * ink + rng.normal(0, 0.08, ink.shape), ground), 0, 1)
    return images[..., None].astype("float32"), (ink > 0.4)[..., None].astype("float32")


def unet() -> keras.Model:
    def stage(x, filters, name):
        for i in range(2):
            x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"{name}_conv{i}")(x)
            x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
        return x

    x = image = keras.Input((32, 32, 1), name="image")
    skips = []
    for filters in (16, 32):
        skips.append(stage(x, filters, f"down{filters}"))
        x = layers.MaxPooling2D()(skips[-1])
    x = stage(x, 64, "middle")
    for filters in (32, 16):
        x = layers.Conv2DTranspose(filters, 2, 2, name=f"grow{filters}")(x)
        x = stage(layers.Concatenate()([x, skips.pop()]), filters, f"up{filters}")
    return keras.Model(image, layers.Conv2D(1, 1, activation="sigmoid", name="ink")(x), name="unet")


def iou(masks, found) -> float:
    """Intersection over union of the ink."""
    masks, found = masks > 0.5, np.asarray(found) > 0.5
    return float((masks & found).sum() / (masks | found).sum())


def fit(model: keras.Model, data, rate: float, epochs: int, *callbacks) -> None:
    steps = epochs * -(-len(data[0]) // 32)
    rate = keras.optimizers.schedules.CosineDecay(rate, steps)
    model.compile(keras.optimizers.Adam(rate), "binary_crossentropy")
    model.fit(*data, batch_size=32, epochs=epochs, verbose=0, callbacks=list(callbacks))


def main(folder: str = ".", epochs: int = 8, count: int = 1500) -> dict[str, float]:
    keras.utils.set_random_seed(0)
    (digits, _), (others, _) = demo.digits()
    train, (x, y) = scenes(digits, count, 0), scenes(others, 300, 1)
    model = unet()
    fit(model, train, 3e-3, epochs)
    scores = {"trained": iou(y, model.predict(x, verbose=0))}

    # A skip connection ties the channels of an encoder's stage to places in a concatenation: they go on both sides.
    print(tfstruct.explain(model))
    plan = tfstruct.plan_channels(model, {"macs": 0.5, "peak_memory": 0.75}, round_to=4)
    smaller = tfstruct.apply(model, plan)
    print(plan)
    scores["half of the work, as it is"] = iou(y, smaller.predict(x, verbose=0))
    fit(smaller, train, 2e-3, epochs)
    scores["tuned"] = iou(y, smaller.predict(x, verbose=0))

    # Pixels near the border of a digit are decided by a hair: the rounding of the file is trained with.
    aware = QuantizeAware("int8")
    fit(smaller, train, 5e-4, max(1, epochs // 4), aware)
    file = tfstruct.to_tflite(aware.twin, verification=(x, y), measure_latency=False)
    print(file.report)
    scores["int8 file"] = iou(y, file.predict(x))
    for what, score in scores.items():
        print(f"{what}: IoU {score:.3f}")
    plain = tfstruct.to_tflite(model, "int8", calibration=train[0][:200], verification=x[:50], measure_latency=False)
    print(f"bytes: {plain.report.size:,} of the whole network in int8, {file.report.size:,} now")
    file.save(pathlib.Path(folder) / "segmentation.tflite")
    return scores


if __name__ == "__main__":
    main(*sys.argv[1:])
