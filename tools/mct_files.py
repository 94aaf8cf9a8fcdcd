"""Files of Sony's Model Compression Toolkit, run by the Python of an environment of its own: TensorFlow 2.15 at most.

PYTHON tools/mct_files.py FOLDER: reads `model.json`, of Keras 2, `weights.npz` and `samples.npy` there; writes
`ptq.tflite`, `gptq.tflite` (its gradient-based rounding, 20 epochs over the samples) and the CPU seconds of both as
`seconds.json`.
"""

import json
import pathlib
import sys
import time

import keras
import model_compression_toolkit as mct
import numpy as np

FORMAT = {
    "serialization_format": mct.exporter.KerasExportSerializationFormat.TFLITE,
    "quantization_format": mct.exporter.QuantizationFormat.INT8,
}


def main(folder: pathlib.Path, batch: int = 50) -> None:
    model, samples = keras.models.model_from_json((folder / "model.json").read_text()), np.load(folder / "samples.npy")
    with np.load(folder / "weights.npz") as weights:
        model.set_weights([weights[f"arr_{i}"] for i in range(len(weights.files))])
    capabilities = mct.get_target_platform_capabilities("1.0", "tflite")

    def data():
        for start in range(0, len(samples), batch):
            yield [samples[start : start + batch]]

    def gptq():
        config = mct.gptq.get_keras_gptq_config(
            n_epochs=20, use_hessian_based_weights=False, use_hessian_sample_attention=False
        )
        return mct.gptq.keras_gradient_post_training_quantization(
            model, data, gptq_config=config, target_platform_capabilities=capabilities
        )

    def ptq():
        return mct.ptq.keras_post_training_quantization(model, data, target_platform_capabilities=capabilities)

    seconds = {}
    for name, work in {"ptq": ptq, "gptq": gptq}.items():
        start = time.process_time()
        quantized, _ = work()
        mct.exporter.keras_export_model(quantized, str(folder / f"{name}.tflite"), **FORMAT)
        seconds[name] = time.process_time() - start
        (folder / "seconds.json").write_text(json.dumps(seconds))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
