"""Small models, one for each structure that tfstruct has to take. Every builder is seeded by the caller.

`MODELS[name]()` builds one; `randomise(model, seed)` gives weights and batch-norm statistics values that make
an equality mean something; `sample_inputs(model, n, seed)` makes inputs of the right shape and dtype.
"""

import keras
import numpy as np
from keras import layers

VOCABULARY = 20


def conv_bn():
    return keras.Sequential(
        [
            keras.Input((12, 12, 3), name="image"),
            layers.Conv2D(8, 3, padding="same", use_bias=False, name="stem"),
            layers.BatchNormalization(name="stem_bn"),
            layers.ReLU(name="stem_relu"),
            layers.MaxPooling2D(name="pool"),
            layers.Conv2D(12, 3, strides=2, padding="same", activation="relu", name="conv"),
            layers.GlobalAveragePooling2D(name="gap"),
            layers.Dropout(0.3, name="dropout"),
            layers.Dense(5, activation="softmax", name="head"),
        ],
        name="conv_bn",
    )


def depthwise():
    x = inputs = keras.Input((12, 12, 4), name="image")
    x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="dw")(x)
    x = layers.BatchNormalization(name="dw_bn")(x)
    x = layers.ReLU(6.0, name="dw_relu6")(x)
    x = layers.Conv2D(8, 1, name="pw")(x)
    x = layers.SeparableConv2D(8, 3, strides=2, activation="relu", name="sep")(x)
    x = layers.Flatten(name="flat")(x)
    return keras.Model(inputs, layers.Dense(4, name="head")(x), name="depthwise")


def residual():
    x = inputs = keras.Input((10, 10, 3), name="image")
    x = shortcut = layers.Conv2D(8, 3, padding="same", activation="relu", name="stem")(x)
    x = layers.Conv2D(8, 3, padding="same", name="conv1")(x)
    x = layers.BatchNormalization(name="bn1")(x)
    x = layers.Add(name="join")([x, shortcut])
    x = layers.ReLU(name="relu")(x)
    x = x * 0.5 + 1.0  # operators that are no layers
    x = layers.AveragePooling2D(2, name="pool")(x)
    x = layers.Flatten(name="flat")(x)
    return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x), name="residual")


def concat():
    inputs = keras.Input((8, 8, 3), name="image")
    left = layers.Conv2D(4, 1, activation="relu", name="left")(inputs)
    right = layers.Conv2D(6, 3, padding="same", activation="sigmoid", name="right")(inputs)
    x = layers.Concatenate(name="concat")([left, right])
    x = layers.UpSampling2D(2, interpolation="bilinear", name="up")(x)
    x = layers.ZeroPadding2D(1, name="pad")(x)
    x = layers.Conv2D(4, 3, strides=2, activation="tanh", name="conv")(x)
    return keras.Model(inputs, layers.GlobalMaxPooling2D(name="gmp")(x), name="concat")


def transposed():
    x = inputs = keras.Input((6, 6, 4), name="image")
    x = layers.Conv2DTranspose(6, 3, strides=2, padding="same", activation="relu", name="up1")(x)
    x = layers.Conv2DTranspose(2, 2, strides=2, padding="valid", name="up2")(x)
    return keras.Model(inputs, x, name="transposed")


def conv1d():
    x = inputs = keras.Input((24, 3), name="signal")
    x = layers.Conv1D(8, 5, padding="causal", activation="relu", name="causal")(x)
    x = layers.Conv1D(8, 3, dilation_rate=2, padding="same", name="dilated")(x)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.LeakyReLU(negative_slope=0.1, name="leaky")(x)
    x = layers.MaxPooling1D(2, name="pool")(x)
    x = layers.GlobalAveragePooling1D(name="gap")(x)
    return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x), name="conv1d")


def grouped():
    x = inputs = keras.Input((8, 8, 4), name="image")
    x = layers.Conv2D(8, 3, groups=2, padding="same", activation="relu", name="grouped")(x)
    x = layers.PReLU(shared_axes=[1, 2], name="prelu")(x)
    x = layers.Conv2D(8, 3, groups=4, padding="same", name="grouped2")(x)
    x = layers.Activation("hard_swish", name="swish")(x)
    x = layers.GlobalAveragePooling2D(name="gap")(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x), name="grouped")


def _recurrent(name, layer):
    inputs = keras.Input((6, 4), name="sequence")
    x = layer(inputs)
    return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x), name=name)


def lstm():
    return _recurrent("lstm", layers.LSTM(5, name="lstm_layer"))


def gru():
    return _recurrent("gru", layers.GRU(5, name="gru_layer"))


def bidirectional():
    return _recurrent("bidirectional", layers.Bidirectional(layers.LSTM(4, name="cell"), name="both"))


def attention():
    x = inputs = keras.Input((6, 8), name="tokens")
    y = layers.MultiHeadAttention(num_heads=2, key_dim=4, name="attention")(x, x)
    x = layers.Add(name="add1")([x, y])
    x = layers.LayerNormalization(name="norm1")(x)
    y = layers.Dense(16, activation="gelu", name="ff1")(x)
    y = layers.Dense(8, name="ff2")(y)
    x = layers.LayerNormalization(name="norm2")(layers.Add(name="add2")([x, y]))
    x = layers.GlobalAveragePooling1D(name="gap")(x)
    return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x), name="attention_model")


def embedding():
    x = inputs = keras.Input((7,), dtype="int32", name="ids")
    x = layers.Embedding(VOCABULARY, 6, name="embed")(x)
    x = layers.Conv1D(8, 3, activation="relu", name="conv")(x)
    x = layers.GlobalMaxPooling1D(name="gmp")(x)
    return keras.Model(inputs, layers.Dense(2, activation="softmax", name="head")(x), name="embedding")


def several():
    """Two inputs of different kind, two outputs."""
    image = keras.Input((8, 8, 1), name="image")
    extra = keras.Input((4,), name="extra")
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(image)
    x = layers.Flatten(name="flat")(x)
    x = layers.Concatenate(name="join")([x, layers.Dense(4, activation="relu", name="fc")(extra)])
    outputs = {
        "kind": layers.Dense(3, activation="softmax", name="kind_head")(x),
        "size": layers.Dense(1, name="size_head")(x),
    }
    return keras.Model({"image": image, "extra": extra}, outputs, name="several")


def nested():
    block_in = keras.Input((8, 8, 4), name="block_in")
    y = layers.Conv2D(4, 3, padding="same", activation="relu", name="conv")(block_in)
    block = keras.Model(block_in, layers.Add(name="add")([y, block_in]), name="block")
    tail = keras.Sequential([layers.Flatten(name="flat"), layers.Dense(3, name="fc")], name="tail")
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 1, name="conv")(inputs)
    return keras.Model(inputs, tail(block(x)), name="nested")


def shared():
    """One layer used three times, by two inputs and again on the sum."""
    left, right = keras.Input((6,), name="left"), keras.Input((6,), name="right")
    dense = layers.Dense(6, activation="relu", name="twice")
    x = layers.Subtract(name="difference")([dense(left), dense(right)])
    return keras.Model([left, right], layers.Dense(2, name="head")(dense(x)), name="shared")


@keras.saving.register_keras_serializable("tests.zoo")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv = layers.Conv2D(4, 3, activation="relu", name="conv")
        self.norm = layers.BatchNormalization(name="norm")
        self.pool = layers.GlobalAveragePooling2D(name="gap")
        self.head = layers.Dense(3, name="head")

    def call(self, x, training=False):
        return self.head(self.pool(self.norm(self.conv(x), training=training)))


def subclassed():
    model = Subclassed(name="subclassed")
    model(np.zeros((1, 8, 8, 3), "float32"))
    return model


MODELS = {
    build.__name__: build
    for build in (
        conv_bn, depthwise, residual, concat, transposed, conv1d, grouped, lstm, gru, bidirectional,
        attention, embedding, several, nested, shared, subclassed,
    )
}  # fmt: skip


def randomise(model, seed=0):
    """Gives every weight a random value: batch-norm variances positive, kernels scaled by their fan-in."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        shape = tuple(variable.shape)
        if "seed" in variable.path:
            continue
        if "variance" in variable.name:
            value = rng.uniform(0.5, 2.0, shape)
        elif len(shape) > 1:
            value = rng.normal(0.0, 1.0, shape) / np.sqrt(np.prod(shape[:-1]))
        elif "gamma" in variable.name:
            value = rng.uniform(0.5, 1.5, shape)
        else:
            value = rng.normal(0.0, 0.3, shape)
        variable.assign(value.astype(variable.dtype))
    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, layers.Normalization):
            layer.finalize_state()  # it computes with constants made from its weights
    return model


def settle(model, inputs, seed=0):
    """Scales a randomised functional model, layer by layer, so that its signal neither fades nor explodes on its way.

    Without it a deep model's output is a constant of its biases, and every equality luck. The statistics of batch
    norms are those of `inputs`, shaken a little; the kernels before them are left random.
    """
    rng = np.random.default_rng(seed)
    functional = model._functional if isinstance(model, keras.Sequential) else model
    known = {
        id(x): keras.ops.convert_to_tensor(y)
        for x, y in zip(functional.inputs, keras.tree.flatten(inputs), strict=True)
    }
    for depth in sorted(functional._nodes_by_depth, reverse=True):
        for node in functional._nodes_by_depth[depth]:
            if node.is_input or any(id(x) not in known for x in node.input_tensors):
                continue
            layer = node.operation
            args, kwargs = node.arguments.fill_in(known)
            if isinstance(layer, layers.BatchNormalization):
                x = keras.ops.convert_to_numpy(args[0])
                over = tuple(i for i in range(x.ndim) if i != layer.axis % x.ndim)
                mean, variance = x.mean(over), x.var(over)
                # A channel that is almost constant would be blown up.
                variance = np.maximum(variance, 0.1 * variance.mean() + 1e-6)
                layer.moving_mean.assign(mean + rng.normal(0.0, 0.2, mean.shape) * np.sqrt(variance))
                layer.moving_variance.assign(variance * rng.uniform(0.5, 2.0, mean.shape))
            outputs = layer(*args, **kwargs)
            kernel = getattr(layer, "kernel", None)
            if isinstance(kernel, keras.Variable):
                spread = keras.ops.convert_to_numpy(outputs).std(axis=0 if len(outputs) > 1 else None).mean()
                kernel.assign(kernel / max(spread, 1e-3))
                outputs = layer(*args, **kwargs)
            known.update({id(x): y for x, y in zip(node.outputs, keras.tree.flatten(outputs), strict=True)})
    return model


def build(name, seed=0):
    keras.utils.set_random_seed(seed)
    return randomise(MODELS[name](), seed)


def sample_inputs(model, n, seed=0):
    """An array, or a dict of arrays by input name where there are several inputs."""
    rng = np.random.default_rng(seed)

    def draw(shape, dtype):
        if "int" in dtype:
            return rng.integers(0, VOCABULARY, (n, *shape)).astype(dtype)
        return rng.normal(0.0, 1.0, (n, *shape)).astype(dtype)

    if isinstance(model, Subclassed):
        return draw((8, 8, 3), "float32")
    drawn = {x.name: draw(x.shape[1:], x.dtype) for x in model.inputs}
    return drawn if len(drawn) > 1 else next(iter(drawn.values()))
