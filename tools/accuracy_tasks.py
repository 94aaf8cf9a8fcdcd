"""Data sets and networks of the accuracy benchmarks: the shared ResNet8 on CIFAR-10, and scikit-learn's digits."""

import dataclasses
import functools
from collections.abc import Callable

import keras
import numpy as np

from tfstruct.graph.copying import copied

DIGITS = "residual network, digits"
Images = tuple[np.ndarray, np.ndarray]  # and labels


@dataclasses.dataclass(frozen=True)
class Task:
    """Images and the network that is compressed.

    Attributes:
        name: in tables.
        train, held, test: settings are chosen on `held`, and `test` is looked at once for each file; `train` may be of
            bytes, the others are float32.
        model: by seed; not to be changed.
        legacy: the same network for tf_keras, with the weights of a Keras 3 one.
        batch: samples a step; `steps`: of a training that compresses.
    """

    name: str
    train: Images
    held: Images
    test: Images
    model: Callable[[int], keras.Model]
    legacy: Callable[[keras.Model], object]
    batch: int
    steps: int

    def stream(self, seed: int):
        """Endless batches, flipped and shifted where the images are photographs."""
        import tensorflow as tf

        def change(image, label):
            image = tf.pad(tf.image.random_flip_left_right(image), [[2, 2], [2, 2], [0, 0]], "REFLECT")
            return tf.cast(tf.image.random_crop(image, [32, 32, 3]), tf.float32), label

        x, y = self.train
        found = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=seed).repeat()
        if x.shape[1:] == (32, 32, 3):
            found = found.map(change, num_parallel_calls=2, deterministic=True)
        return found.batch(self.batch).prefetch(4)

    @property
    def calibration(self) -> np.ndarray:
        return self.train[0][:500].astype("float32")

    def quick(self, steps: int = 30, tested: int = 500) -> "Task":
        """The same with few steps and few images, to see that everything runs."""
        test = self.test[0][:tested], self.test[1][:tested]
        return dataclasses.replace(self, steps=min(steps, self.steps), test=test)


def tasks(quick: bool = False) -> list[Task]:
    """Those whose data are there: CIFAR-10 is not a package's, and the others say so when it is left out."""
    found = [digits(quick)]
    try:
        found.append(cifar())
    except OSError as error:
        print(f"ResNet8 on CIFAR-10 is left out, as its files are not there: {error}")
    return [task.quick() for task in found] if quick else found


def cifar() -> Task:
    """The shared ResNet8. It was trained on all training images, those in `held` too."""
    import resnet8

    if not resnet8.DATA.exists():
        raise FileNotFoundError(resnet8.DATA)
    (x, y), (test, labels) = resnet8.images("train"), resnet8.images("test")
    whole, cut = resnet8.baseline(), resnet8.TRAIN

    def legacy(model):
        import tf_keras

        made = tf_keras.models.load_model(resnet8.DATA / "models" / "resnet8_cifar10_jpeg.h5", compile=False)
        return _with_weights(made, model)

    held = x[cut:].astype("float32"), y[cut:]
    return Task(
        "ResNet8, CIFAR-10", (x[:cut], y[:cut]), held, (test.astype("float32"), labels), lambda seed: whole, legacy,
        batch=64, steps=781,
    )  # fmt: skip


def digits(quick: bool = False) -> Task:
    """1,797 images of 8 x 8 (`sklearn.datasets.load_digits`); the network is trained anew for each seed."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    x, y = (data.images[order, ..., None] / 16).astype("float32"), data.target[order]

    @functools.cache
    def trained(seed: int) -> keras.Model:
        keras.utils.set_random_seed(seed)
        model, steps = small_network(keras), 100 if quick else 1500
        schedule = keras.optimizers.schedules.CosineDecay(3e-3, steps)
        model.compile(keras.optimizers.Adam(schedule), "sparse_categorical_crossentropy", jit_compile=False)
        model.fit(task.stream(seed), steps_per_epoch=steps, verbose=0)
        return copied(model)

    def legacy(model):
        import tf_keras

        return _with_weights(small_network(tf_keras), model)

    parts = [(x[of], y[of]) for of in (slice(1100), slice(1100, 1300), slice(1300, None))]
    task = Task(DIGITS, *parts, trained, legacy, batch=32, steps=300)
    return task


def small_network(keras):
    """A convolution and a residual block for images of 8 x 8, of Keras 3 or tf_keras: 25,000 weights."""
    layers = keras.layers

    def convolution(x, width, size=3, stride=1):
        x = layers.Conv2D(width, size, stride, "same", use_bias=False)(x)
        return layers.BatchNormalization(momentum=0.9)(x)

    inputs = keras.Input((8, 8, 1))
    x = layers.ReLU()(convolution(inputs, 16))
    y = convolution(layers.ReLU()(convolution(x, 48, stride=2)), 32)
    x = layers.ReLU()(layers.Add()([y, convolution(x, 32, 1, 2)]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


def _with_weights(made, model: keras.Model):
    """A network of tf_keras with the weights of the Keras 3 one, which has its layers in the same order."""
    theirs = [layer for layer in made.layers if layer.weights]
    ours = [layer for layer in model.layers if layer.weights]
    for one, other in zip(theirs, ours, strict=True):
        one.set_weights(other.get_weights())
    return made


def correct(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Percent of the samples whose largest output is that of their label."""
    return 100 * float(np.mean(outputs.argmax(1) == labels))


def of_file(content: bytes, images: Images) -> float:
    """Accuracy of a file in percent."""
    from tfstruct.convert.runtime import Runtime

    runtime = Runtime(content)
    (port,), x = runtime.inputs, images[0]
    (outputs,) = runtime.run_all({port.name: x}).values()
    return correct(outputs, images[1])


def of_model(model, images: Images) -> float:
    """Accuracy of a Keras model in percent."""
    return correct(model.predict(images[0], batch_size=500, verbose=0), images[1])
