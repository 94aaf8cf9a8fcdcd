"""Small models of what makes integers hard: dead channels, masks, casts, tiny and huge ranges; one a seed.

`hard_model(seed)` gives a model and 200 samples; each seed draws an input, two or three hard parts and an ending. The
first 30 seeds draw from `PARTS`, the others from `MORE_PARTS` too, and may have a second output.
"""

import keras
import numpy as np
from keras import layers as L
from keras import ops

INPUTS = ("image", "series", "vector", "ids", "pixels")
SAMPLES = 200
NARROW = 30


def _scaled(layer, rng, part, factor):
    """Multiplies a part of a kernel's last axis, or of a depthwise kernel's channels, by a factor."""
    kernel, *others = layer.get_weights()
    axis = -2 if isinstance(layer, L.DepthwiseConv2D) else -1
    chosen = rng.permutation(kernel.shape[axis])[: max(1, int(part * kernel.shape[axis]))]
    moved = np.moveaxis(kernel, axis, -1)
    moved[..., chosen] *= factor
    layer.set_weights([np.moveaxis(moved, -1, axis), *others])


def _norm(x, rng):
    layer = L.BatchNormalization()
    y = layer(x)
    n = x.shape[-1]
    layer.set_weights([rng.uniform(0.5, 2, n), rng.normal(0, 1, n), rng.normal(0, 0.1, n), rng.uniform(0.5, 2, n)])
    return y


def _factor(rng):
    return float(rng.choice([0.0, 1e-9, 1e-6, 1e-4]))


def dead_convolution(x, rng):
    layer = L.Conv2D(8, 3, padding="same") if len(x.shape) == 4 else L.Conv1D(8, 3, padding="same")
    y = layer(x)
    layer.set_weights([layer.get_weights()[0], rng.normal(0, 1, 8)])
    _scaled(layer, rng, 0.3, _factor(rng))
    return L.ReLU()(y)


def dead_norm(x, rng):
    layer = L.Conv2D(8, 3, padding="same", use_bias=False) if len(x.shape) == 4 else L.Dense(8, use_bias=False)
    y = layer(x)
    _scaled(layer, rng, 0.3, _factor(rng))
    return L.ReLU(6.0)(_norm(y, rng))


def dead_depthwise(x, rng):
    layer = L.DepthwiseConv2D(3, padding="same", use_bias=False)
    y = layer(x)
    _scaled(layer, rng, 0.3, _factor(rng))
    return L.Conv2D(8, 1, activation="relu")(L.ReLU(6.0)(_norm(y, rng)))


def wide_range(x, rng):
    """Everything by a huge or tiny factor, and back later on by a norm of its own scale."""
    scale = float(rng.choice([1e-4, 1e-2, 1e2, 1e4]))
    return L.Dense(8, activation="relu", kernel_initializer=keras.initializers.HeNormal(0))(
        L.Rescaling(1 / scale)(L.Rescaling(scale)(x))
    )


def channel_scales(x, rng):
    layer = L.Dense(8, activation="relu")
    y = layer(x)
    kernel, bias = layer.get_weights()
    layer.set_weights([kernel * 10.0 ** rng.uniform(-2, 1, 8), bias + rng.normal(0, 0.1, 8)])
    return y


def causal_attention(x, rng):
    return L.Add()([x, L.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True)])


def additive_mask(x, rng):
    n = x.shape[1]
    mask = np.triu(np.full((n, n), float(rng.choice([-1e9, -1e4, np.finfo("float32").min])), "float32"), 1)
    scores = L.Softmax()(L.Dot((2, 2))([x, x]) + mask[None])
    return L.Dot((2, 1))([scores, x])


def masked_softmax(x, rng):
    n = x.shape[1]
    mask = np.tril(np.ones((1, n, n), bool))
    scores = ops.softmax(ops.where(mask, ops.matmul(x, ops.transpose(x, (0, 2, 1))), -1e9))
    return ops.matmul(scores, x)


def gate_of_signs(x, rng):
    """A condition as a float: bool to float is a cast."""
    return x * ops.cast(x > 0.1, "float32")


def separable(x, rng):
    return L.ReLU()(_norm(L.SeparableConv2D(8, 3, padding="same", depth_multiplier=2)(x), rng))


def transposed(x, rng):
    layer = L.Conv2DTranspose(8, 3, 2, padding="same")
    y = layer(x)
    layer.set_weights([layer.get_weights()[0], rng.normal(0, 1, 8)])
    _scaled(layer, rng, 0.3, _factor(rng))
    return L.MaxPooling2D()(L.ReLU()(y))


def dilated(x, rng):
    if len(x.shape) == 4:
        return L.Conv2D(8, 3, padding="same", dilation_rate=2, activation="relu")(x)
    return L.Conv1D(8, 3, padding="causal", dilation_rate=2, activation="relu")(x)


def grouped(x, rng):
    return L.Conv2D(8, 3, padding="same", groups=2, activation="relu6")(x)


def activation(x, rng):
    kind = str(rng.choice(["elu", "silu", "gelu", "hard_swish", "selu", "mish", "softplus", "tanh", "leaky_relu"]))
    return L.Activation(kind)(3 * _norm(x, rng))


def prelu(x, rng):
    shared = list(range(1, len(x.shape) - 1)) or None
    return L.PReLU(alpha_initializer=keras.initializers.RandomUniform(-0.5, 2, seed=0), shared_axes=shared)(x)


def layer_norm(x, rng):
    return L.LayerNormalization()(x * float(rng.choice([1e-2, 1.0, 1e2])) + float(rng.choice([0.0, 3.0])))


def rms_norm(x, rng):
    return L.RMSNormalization()(x)


def group_norm(x, rng):
    return L.GroupNormalization(4)(x)


def joined_ranges(x, rng):
    """Channels of very different ranges side by side, brought to one scale behind that."""
    scale = float(rng.choice([10.0, 50.0]))
    y = L.Concatenate()([x, scale * L.Dense(4)(x)])
    layer = L.Dense(8)
    z = layer(y)
    kernel, bias = layer.get_weights()
    kernel[8:] /= scale
    layer.set_weights([kernel, bias])
    return z


def added_ranges(x, rng):
    return L.Add()([x, float(rng.choice([0.05, 30.0])) * L.Dense(8, activation="tanh")(x)])


def resized(x, rng):
    kind = str(rng.choice(["bilinear", "nearest"]))
    return L.AveragePooling2D(2)(L.UpSampling2D(2, interpolation=kind)(x))


def sliced(x, rng):
    return L.Concatenate()([x[:, ::2], x[:, 1::2]])


def divided(x, rng):
    return x / (1.0 + ops.abs(L.Dense(8)(x)))


def by_root(x, rng):
    return x * ops.rsqrt(0.1 + ops.mean(x * x, axis=-1, keepdims=True))


def exponential(x, rng):
    return L.Dense(8)(ops.exp(-ops.abs(x)))


def unit_length(x, rng):
    return L.UnitNormalization()(x) if rng.integers(2) else ops.normalize(x)


def huge_bias(x, rng):
    """A bias far beyond what the kernel makes, subtracted again by the next."""
    layer, second = L.Dense(8), L.Dense(8)
    y = second(layer(x))
    bias = np.full(8, float(rng.choice([10.0, 30.0])))
    layer.set_weights([layer.get_weights()[0], bias])
    kernel = second.get_weights()[0]
    second.set_weights([kernel, -bias @ kernel])
    return y


def rarely_alive(x, rng):
    """Channels that few samples reach, none of the calibration data perhaps."""
    layer = L.Dense(8, activation="relu")
    y = layer(_norm(x, rng))
    kernel, bias = layer.get_weights()
    bias[:3] = -4 * np.linalg.norm(kernel[:, :3], axis=0)
    layer.set_weights([kernel, bias])
    return L.Dense(8)(L.Concatenate()([y, x]))


def excited(x, rng):
    gate = L.Dense(8, activation="sigmoid")(L.Dense(4, activation="relu")(L.GlobalAveragePooling2D(keepdims=True)(x)))
    return x * gate


def pooled(x, rng):
    return L.Add()([L.MaxPooling2D(2, 1, "same")(x), L.AveragePooling2D(3, 1, "same")(x)])


def recurrent(x, rng):
    kind = (L.LSTM, L.GRU, L.SimpleRNN)[rng.integers(3)]
    return L.Bidirectional(kind(4, return_sequences=True))(x) if rng.integers(2) else kind(8, return_sequences=True)(x)


def padded_attention(x, rng):
    n = x.shape[1]
    mask = np.arange(n)[None, None, :] < n - 2
    return L.LayerNormalization()(x + L.MultiHeadAttention(2, 4)(x, x, attention_mask=np.tile(mask, (1, n, 1))))


PARTS = {
    4: (dead_convolution, dead_norm, dead_depthwise, wide_range, channel_scales, gate_of_signs),
    3: (dead_convolution, dead_norm, wide_range, channel_scales, causal_attention, additive_mask, masked_softmax),
    2: (dead_norm, wide_range, channel_scales, gate_of_signs),
}
ANY = (
    activation, prelu, layer_norm, rms_norm, joined_ranges, added_ranges, divided, by_root, exponential, unit_length,
    huge_bias, rarely_alive,
)  # fmt: skip
MORE_PARTS = {
    4: (*PARTS[4], *ANY, separable, transposed, dilated, grouped, group_norm, resized, sliced, excited, pooled),
    3: (*PARTS[3], *ANY, dilated, sliced, recurrent, padded_attention),
    2: (*PARTS[2], *ANY),
}


def _second(h, rng):
    """Another output: of another size, or the same for every sample."""
    factor = float(rng.choice([0.0, 1e-3, 1e3]))
    return L.Dense(3, kernel_initializer=keras.initializers.RandomNormal(0, factor, 0), bias_initializer="ones")(h)


def hard_model(seed: int) -> tuple[keras.Model, np.ndarray, tuple[str, ...]]:
    """(model, samples, names of what is in it), the same for a seed."""
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    kind = INPUTS[seed % len(INPUTS)]
    if kind == "ids":
        inputs = keras.Input((6,), dtype=str(rng.choice(["int32", "float32"])), name="x")
        samples = rng.integers(0, 12, (SAMPLES, 6)).astype(inputs.dtype)
        h = L.Embedding(12, 8, mask_zero=bool(rng.integers(2)), name="table")(inputs)
    elif kind == "pixels":
        inputs = keras.Input((8, 8, 3), dtype="uint8", name="x")
        samples = rng.integers(0, 256, (SAMPLES, 8, 8, 3)).astype("uint8")
        h = L.Rescaling(1 / 255)(inputs)
    else:
        shape = {"image": (8, 8, 3), "series": (6, 4), "vector": (12,)}[kind]
        size = float(rng.choice([1e-3, 1.0, 1e3]))
        far = 2.0 if seed >= NARROW and rng.integers(4) == 0 else 0.0  # all on one side of zero, as pixels are
        inputs = keras.Input(shape, name="x")
        samples = size * (far + np.clip(rng.normal(size=(SAMPLES, *shape)), *((-far, far) if far else (-9, 9))))
        samples = samples.astype("float32")
        h = L.Rescaling(1 / size, -far)(inputs)
    if h.shape[-1] != 8:
        h = L.Dense(8)(h)
    parts = (PARTS if seed < NARROW else MORE_PARTS)[len(h.shape)]
    chosen = [parts[i] for i in rng.permutation(len(parts))[: rng.integers(2, 4)]]
    for part in chosen:
        h = part(h, rng)
    if len(h.shape) == 4:
        h = L.GlobalAveragePooling2D()(h)
    elif len(h.shape) == 3:
        h = L.GlobalAveragePooling1D()(h)
    outputs = L.Dense(5, activation=[None, "softmax", "sigmoid"][rng.integers(3)])(h)
    if seed >= NARROW and seed % 4 == 0:
        outputs = [outputs, _second(h, rng)]
    return keras.Model(inputs, outputs, name=f"hard_{seed}"), samples, (kind, *(part.__name__ for part in chosen))
