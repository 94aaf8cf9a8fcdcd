"""MediaTek's NPU through LiteRT: Dimensity phones.

The operators and types are those of `litert/vendors/mediatek/compiler/MediaTek_Neuro_Compiler.md` in
https://github.com/google-ai-edge/LiteRT, as read on 30 November 2026. The plugin asks the compiler about each operator
besides, where it is installed.
"""

import functools

from tfstruct.convert.devices.litert_npu import Vendor, documented, npu, sdk

_NAMES = """
    ABS ADD AVERAGE_POOL_2D BATCH_MATMUL CAST CONCATENATION CONV_2D DEQUANTIZE DEPTHWISE_CONV_2D DIV FULLY_CONNECTED
    GELU GREATER HARD_SWISH L2_NORMALIZATION LEAKY_RELU LESS LOGISTIC MAXIMUM MAX_POOL_2D MEAN MINIMUM MUL PAD PADV2
    PRELU QUANTIZE REDUCE_MAX RELU RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR RSQRT SLICE SOFTMAX SPLIT SQRT
    SQUARED_DIFFERENCE STRIDED_SLICE SUB SUM TANH TILE TRANSPOSE TRANSPOSE_CONV UNPACK
"""
OPERATORS = tuple(_NAMES.split())
_TYPES = "bool int4 int8 int16 int32 uint8 float16 float32"  # int64 in constants alone

table = documented("MediaTek", OPERATORS, _TYPES.split(), "RMS, L2 and some group normalization")
VENDOR = Vendor(
    "mediatek", "MediaTek", "mt6991", "ai-edge-litert-sdk-mediatek",
    functools.partial(sdk, "ai_edge_litert_sdk_mediatek"),
)  # fmt: skip
DEVICE = npu(
    "mediatek", "MediaTek NPU through LiteRT (Dimensity 9400)", VENDOR, table,
    operators=dict.fromkeys(OPERATORS, ""), four_bit_weights=True,
    aliases=("dimensity", "neuropilot", "mediatek npu", "npu-mediatek", "mt6991"),
)  # fmt: skip
