"""What to write in Keras in place of an operator that a device lacks."""

from tfstruct.convert import flatbuffer
from tfstruct.convert.devices.device import Device
from tfstruct.convert.flatbuffer import Operator

# Operator -> what to write in Keras, and the operator that it becomes; the first that the device takes is proposed.
REPLACEMENTS = {
    "GELU": [("Activation('hard_swish')", "HARD_SWISH"), ("ReLU", "RELU")],
    "ELU": [("LeakyReLU", "LEAKY_RELU"), ("ReLU", "RELU")],
    "EXP": [("Activation('hard_sigmoid') or a ReLU", "RELU")],
    "LEAKY_RELU": [("ReLU", "RELU")],
    "PRELU": [("LeakyReLU", "LEAKY_RELU"), ("ReLU", "RELU")],
    "HARD_SWISH": [("ReLU(6.0)", "RELU6")],
    "LOG_SOFTMAX": [("Softmax", "SOFTMAX")],
    "CONV_3D": [("Conv2D with the frames as channels", "CONV_2D")],
    "CONV_3D_TRANSPOSE": [("Conv2DTranspose with the frames as channels", "TRANSPOSE_CONV")],
    "TRANSPOSE_CONV": [("UpSampling2D and Conv2D", "RESIZE_NEAREST_NEIGHBOR")],
    "BATCH_MATMUL": [("Dense or Conv2D (products with weights)", "FULLY_CONNECTED")],
    "WHILE": [("unroll=True in the recurrent layer, or Conv1D", "FULLY_CONNECTED")],
    "CUMSUM": [("Conv1D, or a Dense with fixed weights", "CONV_2D")],
    "REVERSE_V2": [("a layer that reads forward", "FULLY_CONNECTED")],
    "SELECT": [("one-hot inputs and Dense in place of Embedding", "FULLY_CONNECTED")],
    "SELECT_V2": [("a product with a mask", "MUL")],
    "POW": [("products", "MUL")],
    "DIV": [("a product with the inverse", "MUL")],
    "SQUARE": [("a product", "MUL")],
    "NEG": [("ReLU for PReLU, BatchNormalization for LayerNormalization", "RELU")],
    "GATHER": [("one-hot inputs and Dense", "FULLY_CONNECTED")],
    "L2_NORMALIZATION": [("BatchNormalization", "MUL")],
    "TILE": [("UpSampling2D", "RESIZE_NEAREST_NEIGHBOR"), ("Concatenate", "CONCATENATION")],
    "TOPK_V2": [("the scores themselves, and sort outside the model", "SOFTMAX")],
    "SHAPE": [("a fixed batch (batch_size=1, --batch-size 1)", "RESHAPE")],
    "FULLY_CONNECTED": [("Conv1D or Conv2D with a kernel of 1", "CONV_2D")],
    "MEAN": [("AveragePooling2D", "AVERAGE_POOL_2D")],
    "REDUCE_MAX": [("MaxPooling2D", "MAX_POOL_2D")],
}


def replacement(op: Operator, wanted: Device, float_file: bool = False) -> str:
    """What to write in place of an operator, so that it fits `wanted`; "" where nothing is known.

    Args:
        float_file: True if the whole file computes in float.
    """
    takes = wanted.operators
    if float_file and op.name in takes:
        return "precision int8 (--precision int8)"
    if op.name in flatbuffer.BORDER_OPERATORS:
        return "integer operators on both sides, integer input and output (no float_io)"
    if op.subgraph:
        return REPLACEMENTS["WHILE"][0][0]
    for text, becomes in (*wanted.replacements.get(op.name, ()), *REPLACEMENTS.get(op.name, ())):
        if not takes or becomes in takes:
            return text
    if op.name.startswith("Flex"):
        return "layers of TensorFlow Lite's own operators"
    return ""
