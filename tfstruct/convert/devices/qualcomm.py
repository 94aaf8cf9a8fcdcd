"""Qualcomm's NPU (Hexagon) through LiteRT: Snapdragon phones.

The operators and types are those of `litert/vendors/qualcomm/compiler/Qualcomm_QNN_Compiler.md` in
https://github.com/google-ai-edge/LiteRT, as read on 30 November 2026. The document gives no limits of shapes: the
compiler may leave more to the CPU.
"""

import functools

from tfstruct.convert.devices.litert_npu import Vendor, documented, npu, sdk

_NAMES = """
    ABS ADD ARG_MAX ARG_MIN AVERAGE_POOL_2D BATCH_MATMUL BROADCAST_TO CAST CEIL CONCATENATION CONV_2D CONV_3D COS CUMSUM
    DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE DIV DYNAMIC_UPDATE_SLICE ELU EMBEDDING_LOOKUP EQUAL EXP FLOOR FLOOR_DIV
    FULLY_CONNECTED GATHER GATHER_ND GELU GREATER GREATER_EQUAL HARD_SWISH L2_NORMALIZATION L2_POOL_2D LEAKY_RELU LESS
    LESS_EQUAL LOG LOGICAL_AND LOGICAL_NOT LOGICAL_OR LOGISTIC MAXIMUM MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL NEG
    NOT_EQUAL PACK PAD PADV2 POW PRELU QUANTIZE REDUCE_ALL REDUCE_ANY REDUCE_MAX REDUCE_MIN RELU RELU6 RELU_0_TO_1
    RELU_N1_TO_1 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2 ROUND RSQRT SELECT SELECT_V2 SIGN SIN SLICE
    SOFTMAX SPACE_TO_DEPTH SPLIT SQRT SQUARE SQUARED_DIFFERENCE STRIDED_SLICE SUB SUM TANH TILE TOPK_V2 TRANSPOSE
    TRANSPOSE_CONV UNPACK
"""
OPERATORS = tuple(_NAMES.split())
_TYPES = "bool int4 int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64"

table = documented("Qualcomm", OPERATORS, _TYPES.split(), "RMS, group and L2 normalization")
VENDOR = Vendor(
    "qualcomm", "Qualcomm", "SM8750", "ai-edge-litert-sdk-qualcomm",
    functools.partial(sdk, "ai_edge_litert_sdk_qualcomm"),
)  # fmt: skip
DEVICE = npu(
    "qualcomm", "Qualcomm NPU through LiteRT (Snapdragon 8 Elite)", VENDOR, table,
    operators=dict.fromkeys(OPERATORS, ""), four_bit_weights=True,
    aliases=("snapdragon", "hexagon", "qnn", "qualcomm npu", "npu-qualcomm", "sm8750"),
)  # fmt: skip
