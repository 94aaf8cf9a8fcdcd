"""Commands that faults happen to, and what they leave in a folder."""

import pathlib

from jobs import digest

COMMANDS = {
    "convert": ["quantize", "model.keras", "--calibration", "images.npy", "-o", "{out}/model.tflite", "--c-array",
                "--report", "{out}/report.html", "--overwrite", "--quiet"],
    "prune": ["prune", "model.keras", "--budget", "macs=60%", "-o", "{out}/smaller.keras", "--overwrite", "--quiet"],
    "pack": ["pack", "model.keras", "-o", "{out}/model.tfpack", "--overwrite", "--quiet"],
    "compress": ["compress", "trained.keras", "--train", "train.npz", "--validation", "validation.npz", "--budget",
                 "macs=60%", "--epochs", "2", "--workdir", "{work}", "-o", "{out}/model.tflite", "--quiet",
                 "--overwrite"],
}  # fmt: skip


def contents(folder: pathlib.Path) -> dict[str, str]:
    """Digests of the files in a folder and in those inside of it, by their paths in it."""
    return {str(p.relative_to(folder)): digest(p.read_bytes()) for p in folder.rglob("*") if p.is_file()}
