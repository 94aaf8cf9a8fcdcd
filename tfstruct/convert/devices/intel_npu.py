"""Intel's NPU through LiteRT: Core Ultra laptops. OpenVINO, which judges, is a package that runs on any x86 processor.

Of each version of ai-edge-litert the plugin needs one of openvino: 2.3 needs 2026.3.1 (`ai-edge-litert-sdk-intel`).
"""

import importlib.util
import os
from collections.abc import Sequence

from tfstruct.convert.devices.device import NOBODY, Verdict
from tfstruct.convert.devices.litert_npu import Vendor, npu
from tfstruct.convert.flatbuffer import Operator


def _libraries() -> str | None:
    spec = importlib.util.find_spec("openvino")
    if spec is None or spec.origin is None:
        return None
    folder = os.path.join(os.path.dirname(spec.origin), "libs")
    return folder if os.path.isdir(folder) else None


def table(content: bytes, found: Sequence[Operator]) -> Verdict:
    """Nothing is known without the compiler."""
    return Verdict(NOBODY, [(None, "only its compiler knows")] * len(found))


VENDOR = Vendor("intel_openvino", "IntelOpenVINO", "LNL", "openvino==2026.3.1", _libraries)
DEVICE = npu(
    "intel-npu", "Intel NPU through LiteRT (Core Ultra 200V)", VENDOR, table, closed=True,
    aliases=("intel", "openvino", "lunar lake", "npu-intel", "core ultra"),
)  # fmt: skip
