"""What TensorFlow's own converter makes of models, for tables to compare with."""

import keras
import numpy as np
import tensorflow as tf


def plain_int8(model: keras.Model, samples: np.ndarray) -> bytes:
    """Its int8 file of a model by itself, with integers at the border."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([sample[None]] for sample in samples)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()
