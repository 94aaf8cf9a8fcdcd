"""The TPU of Google Tensor through LiteRT: Pixel phones.

What it takes is not documented: its compiler, which is closed, says it. The source of LiteRT's plugin lists what it
does not hand to the compiler (`litert/vendors/google_tensor/compiler/compiler_plugin.cc` in
https://github.com/google-ai-edge/LiteRT, as read on 30 November 2026). Of all other operators nothing is known where
the compiler is not installed.
"""

import functools
from collections.abc import Sequence

from tfstruct.convert.devices.device import Verdict
from tfstruct.convert.devices.litert_npu import Vendor, npu, sdk
from tfstruct.convert.devices.reading import Reading, held_against
from tfstruct.convert.flatbuffer import Operator, is_builtin

_NAMES = """
    ASSIGN_VARIABLE BIDIRECTIONAL_SEQUENCE_LSTM BROADCAST_ARGS BUCKETIZE CALL_ONCE COMPLEX_ABS CONV_3D CONV_3D_TRANSPOSE
    DENSIFY FAKE_QUANT HASHTABLE HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_SIZE IMAG LOCAL_RESPONSE_NORMALIZATION
    MATRIX_DIAG MATRIX_SET_DIAG MULTINOMIAL NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5 RANDOM_STANDARD_NORMAL
    RANDOM_UNIFORM RANK READ_VARIABLE REAL REDUCE_PROD REVERSE_SEQUENCE RFFT2D SEGMENT_SUM SHAPE SPARSE_TO_DENSE SVDF
    UNIDIRECTIONAL_SEQUENCE_RNN UNIQUE UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_MIN UNSORTED_SEGMENT_PROD
    UNSORTED_SEGMENT_SUM VAR_HANDLE WHERE
"""
REFUSED = tuple(_NAMES.split())


def problem(op: Reading) -> tuple[bool | None, str]:
    if op.name in REFUSED or not is_builtin(op.name):
        return False, "on the CPU: the plugin does not hand it to the compiler"
    return None, "only its compiler knows"


def table(content: bytes, found: Sequence[Operator]) -> Verdict:
    """Holds every operator against the list of what the plugin refuses."""
    return Verdict("the source of LiteRT's Google Tensor plugin", held_against(content, found, problem))


VENDOR = Vendor(
    "google_tensor", "Google", "Tensor_G5", "ai-edge-litert-sdk-google-tensor",
    functools.partial(sdk, "ai_edge_litert_sdk_google_tensor"),
)  # fmt: skip
DEVICE = npu(
    "google-tensor", "TPU of Google Tensor through LiteRT (Pixel 10)", VENDOR, table, closed=True,
    aliases=("tensor", "pixel", "tensor g5", "google npu", "npu-google-tensor"),
)  # fmt: skip
