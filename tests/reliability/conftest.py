"""The jobs use the small networks and the compressors of tests/callbacks."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "callbacks"))
