"""AdaptiveBatchSize in place of learning-rate decay on CIFAR-10: accuracy over three seeds, and optimizer steps.

python tools/batch_size.py [--quick]      # needs ../shared/data; --quick is one seed of a few epochs

Both trainings are fixed beforehand, by the rule of Smith et al. 2018: wherever one divides the learning rate by 4, the
other multiplies the batch by 4. Nothing is chosen on the test images, which are looked at once, at the end.
"""

import argparse
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from tfstruct.callbacks import AdaptiveBatchSize

DATA = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data" / "cifar10"
BATCH, RATE = 64, 0.05


def images(path, count: int):
    """The first records of a file, as float32 in 0..1."""
    features = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}

    def decode(record):
        example = tf.io.parse_single_example(record, features)
        image = tf.io.decode_jpeg(example["image"], 3, dct_method="INTEGER_ACCURATE")
        return tf.cast(image, tf.float32) / 255, example["label"]

    records = tf.data.TFRecordDataset(str(path)).take(count).map(decode, num_parallel_calls=2).batch(1000)
    x, y = zip(*records.as_numpy_iterator(), strict=True)
    return np.concatenate(x), np.concatenate(y)


def network(seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    stack = [keras.Input((32, 32, 3))]
    for width in (16, 32, 64):
        stack += [layers.Conv2D(width, 3, strides=1 if width == 16 else 2, padding="same", use_bias=False)]
        stack += [layers.BatchNormalization(momentum=0.9), layers.ReLU()]
    stack += [layers.MaxPooling2D(2), layers.Flatten(), layers.Dropout(0.3), layers.Dense(10)]
    model = keras.Sequential(stack)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.SGD(RATE, momentum=0.9, nesterov=True)
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=False)
    return model


def main(quick: bool) -> None:
    seeds, epochs, count = ((0,), 4, 5000) if quick else ((0, 1, 2), 12, 20000)
    falls = (epochs // 2, 3 * epochs // 4)
    x, y = images(DATA / "train.tfrecord", count)
    test = images(DATA / "test.tfrecord", 1000 if quick else 10000)
    rows = {"learning-rate decay": [], "growing batch": []}
    for seed in seeds:
        for name in rows:
            model = network(seed)
            growing = name == "growing batch"
            policy = {epoch: BATCH * 4 ** (i + 1) for i, epoch in enumerate(falls)} if growing else {}
            size = AdaptiveBatchSize(BATCH, BATCH * 16, policy=policy, seed=seed)
            decay = keras.callbacks.LearningRateScheduler(lambda epoch: RATE / 4 ** sum(epoch >= e for e in falls))
            callbacks = [size] if growing else [size, decay]
            start = time.perf_counter()
            model.fit(size.data(x, y), epochs=epochs, verbose=0, callbacks=callbacks)
            seconds = time.perf_counter() - start
            accuracy = model.evaluate(*test, batch_size=500, verbose=0)[1]
            rows[name].append((accuracy, int(model.optimizer.iterations), seconds))
            print(f"seed {seed}, {name}: {accuracy:.2%}, {rows[name][-1][1]} steps, {seconds:.0f} s", flush=True)
    for name, runs in rows.items():
        accuracy, steps, seconds = np.array(runs).T
        spread = f" +- {accuracy.std(ddof=1):.2%}" if len(runs) > 1 else ""
        print(f"{name}: test accuracy {accuracy.mean():.2%}{spread}, {steps[0]:.0f} steps, {np.mean(seconds):.0f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    main(parser.parse_args().quick)
