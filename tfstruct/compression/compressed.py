"""What `compress` hands back: the model, its quantized twin, the file, and the report."""

import dataclasses
import os
import pathlib

import keras

from tfstruct.compression.compression_report import CompressionReport
from tfstruct.convert.tflite_model import TFLiteModel
from tfstruct.files import folder_atomic
from tfstruct.quantize.twin import Twin
from tfstruct.reporting import Result


@dataclasses.dataclass(frozen=True)
class Compressed(Result):
    """A smaller model, and the file that ships.

    Attributes:
        model: the smaller Keras model, plain.
        twin: what the file computes, as a Keras model; None where the file was quantized after training.
        file: the `.tflite` file, with the report of its conversion.
        report: what was done and why; figures before and after.
    """

    model: keras.Model
    report: CompressionReport
    twin: Twin | None
    file: TFLiteModel

    def save(self, folder: str | os.PathLike) -> None:
        """Writes a new folder, whole or not at all: `model.tflite`, `model.keras`, `twin.keras` (where there is one),
        the report as `report.json` and `report.html`, and the model card `README.md`.

        Raises:
            FileExistsError: the folder is there already and not empty.
        """
        with folder_atomic(folder) as path:
            beside = pathlib.Path(path)
            self.file.save(beside / "model.tflite")
            self.model.save(beside / "model.keras")
            if self.twin is not None:
                self.twin.save(beside / "twin.keras")
            for name in ("report.json", "report.html", "README.md"):
                self.report.save(beside / name)
