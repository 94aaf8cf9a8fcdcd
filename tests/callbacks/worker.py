"""One of two processes that train together, by hand. As a program: python worker.py port index file."""

import json
import os
import sys

import numpy as np


def main(port: int, index: int, file: str) -> None:
    workers = [f"localhost:{port}", f"localhost:{port + 1}"]
    task = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
    os.environ["TF_CONFIG"] = json.dumps(task)
    import tensorflow as tf

    strategy = tf.distribute.MultiWorkerMirroredStrategy()  # before anything else of TensorFlow

    import keras
    from small import data, network, schedule

    from tfstruct.callbacks import Prune

    with strategy.scope():
        model = network(keras.optimizers.SGD(0.1))
        model.optimizer.build(model.trainable_variables)
    prune = Prune(schedule(), frequency=3, criterion="movement").attach(model)

    @tf.function
    def train(inputs, labels):
        def step(inputs, labels):
            with tf.GradientTape() as tape:
                loss = keras.ops.sum((labels - model(inputs, training=True)) ** 2) / 16
            gradients = tape.gradient(loss, model.trainable_variables)
            model.optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

        strategy.run(step, args=(inputs, labels))

    dataset = tf.data.Dataset.from_tensor_slices(data()).batch(4)
    for _ in range(2):
        for inputs, labels in strategy.experimental_distribute_dataset(dataset):
            train(inputs, labels)
            prune.step()
    masks = list(prune.masks().values())
    report = prune.finish()
    np.savez(file, *masks, *model.get_weights(), history=np.array(report.history))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
