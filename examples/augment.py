"""Images, sounds, texts and series with random changes, as pictures; and digits trained with and without.

python examples/augment.py [FOLDER]
"""

import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf

from tfstruct import augment, demo

layers = keras.layers


def build() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Rescaling(1 / 16),
            layers.Conv2D(24, 3, activation="relu"),
            layers.Conv2D(24, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )


def pictures(folder: pathlib.Path, x, y) -> None:
    """Samples as they are, and as three epochs would show them."""
    rng = np.random.default_rng(0)
    time = np.arange(400, dtype="float32") / 400
    sound = np.stack([np.sin(40 * time * (1 + k * time)) * np.exp(-4 * time) for k in (0, 1, 2)])
    energy = np.abs(np.fft.rfft(sound.reshape(3, 40, 10), 30, axis=-1)).astype("float32")
    words = np.array([[1, *rng.integers(3, 99, n), 2, *[0] * (16 - n)] for n in (6, 11, 16)], "int32")
    augment.images("medium", value_range=(0, 16), classes=10, flip=None).plot((x, y), path=folder / "images.png")
    augment.audio("strong").plot(sound, count=3, path=folder / "audio.png")
    augment.spectrograms("strong").plot(energy, count=3, path=folder / "spectrograms.png")
    augment.sequences("strong").plot(sound[:, ::8, None], count=3, path=folder / "sequences.png")
    augment.text("strong", keep=(1, 2)).plot(words, count=3, path=folder / "text.png")
    print(f"pictures in {folder}: {', '.join(sorted(file.name for file in folder.glob('*.png')))}")


def main(folder: str = "augmented", epochs: int = 30, samples: int = 200) -> None:
    place = pathlib.Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    (x, y), (test_x, test_y) = demo.digits()
    pictures(place, x[:4], y[:4])

    # Few samples, which changes make more of. Digits are not mirrored; two of them mixed have two labels.
    data = tf.data.Dataset.from_tensor_slices((x[:samples], y[:samples])).shuffle(samples, seed=0).batch(50)
    options = {"value_range": (0, 16), "flip": None, "seed": 0}
    pipelines = {
        "as they are": lambda data: data,
        "light": augment.images("light", **options),
        "light, MixUp": augment.images("light", mix="mixup", classes=10, **options),
    }
    for name, pipeline in pipelines.items():
        keras.utils.set_random_seed(0)
        model = build()
        mixed = "MixUp" in name
        model.compile(keras.optimizers.Adam(3e-3), f"{'' if mixed else 'sparse_'}categorical_crossentropy")
        model.fit(pipeline(data).prefetch(2), epochs=epochs, verbose=0)
        accuracy = np.mean(model.predict(test_x, verbose=0).argmax(1) == test_y)
        print(f"{samples} digits, {name}: test accuracy {accuracy:.1%}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
