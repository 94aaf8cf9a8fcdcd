"""What every function that takes a model says of something else."""

import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest

import tfstruct
from tfstruct import (
    analyze,
    callbacks,
    compression,
    convert,
    distill,
    initializers,
    layers,
    legacy,
    optimizers,
    quantize,
    regularizers,
    surgery,
)
from tfstruct.errors import ModelError, TfstructError
from tfstruct.graph import trace

x = np.zeros((8, 4), "float32")
y = np.zeros((8, 3), "float32")
KERAS = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])

TAKE_A_MODEL = {
    "trace": trace,
    "profile": tfstruct.profile,
    "explain": tfstruct.explain,
    "plan_channels": lambda m: tfstruct.plan_channels(m, 0.5),
    "apply": lambda m: tfstruct.apply(m, surgery.Plan("", {}, {})),
    "shrink": surgery.shrink,
    "recalibrate_batch_norm": lambda m: surgery.recalibrate_batch_norm(m, x),
    "widen": lambda m: surgery.widen(m, "a", 9),
    "deepen": lambda m: surgery.deepen(m, "a"),
    "analyze_bottlenecks": lambda m: surgery.analyze_bottlenecks(m, (x, y)),
    "remove_redundant": surgery.remove_redundant,
    "drop_blocks": lambda m: surgery.drop_blocks(m, x, count=1),
    "downsample_early": surgery.downsample_early,
    "residual_blocks": surgery.residual_blocks,
    "delete_layer": lambda m: surgery.delete_layer(m, "a"),
    "delete_layers": lambda m: surgery.delete_layers(m, ["a"]),
    "insert_layer": lambda m: surgery.insert_layer(m, keras.layers.Dense(3), after="a"),
    "replace_layer": lambda m: surgery.replace_layer(m, "a", keras.layers.Dense(3)),
    "fold_batch_norm": surgery.fold_batch_norm,
    "merge_linear": surgery.merge_linear,
    "merge_parallel": surgery.merge_parallel,
    "fuse_activation": surgery.fuse_activation,
    "optimize_inference": surgery.optimize_inference,
    "factorize": lambda m: surgery.factorize(m, rank=1),
    "share_layers": lambda m: surgery.share_layers(m, ["a", "b"]),
    "suggest_sharing": surgery.suggest_sharing,
    "importance": lambda m: analyze.importance(m, "l2"),
    "sensitivity": lambda m: analyze.sensitivity(m, (x, y)),
    "choose_threshold": lambda m: analyze.choose_threshold(m, (x, y)),
    "gradient_noise_scale": lambda m: analyze.gradient_noise_scale(m, (x, y), loss="mse"),
    "to_tflite": convert.to_tflite,
    "measured_latency": convert.measured_latency,
    "dequantize_file": lambda m: convert.dequantize(b"TFL3", m),
    "pack": convert.pack,
    "Twin": lambda m: quantize.Twin(m, quantize.Scheme("int8")),
    "calibrate": lambda m: quantize.calibrate(m, x),
    "equalize": quantize.equalize,
    "correct_bias": lambda m: quantize.correct_bias(m, x),
    "quantize_sensitivity": lambda m: quantize.sensitivity(m, x),
    "mixed_precision": lambda m: quantize.mixed_precision(m, x, {"tflite_bytes": 0.5}),
    "adaround": lambda m: quantize.adaround(m, x),
    "blockwise": lambda m: quantize.blockwise(m, x),
    "compress": lambda m: tfstruct.compress(m, (x, y), (x, y), "params=0.5"),
    "Task": lambda m: compression.Task(m, (x, y), (x, y), "params=0.5"),
    "LSUV": lambda m: initializers.LSUV(m, x),
    "inherit": lambda m: initializers.inherit(m, KERAS),
    "describe": lambda m: initializers.describe(m, x),
    "regularizers.apply": lambda m: regularizers.apply(m, regularizers.GroupLasso(0.1)),
    "regularizers.remove": regularizers.remove,
    "finalize": layers.finalize,
    "predict_distribution": lambda m: layers.predict_distribution(m, x),
    "Prune": lambda m: callbacks.Prune(0.5).attach(m),
    "PruneChannels": lambda m: callbacks.PruneChannels(0.5).attach(m),
    "QuantizeAware": lambda m: callbacks.QuantizeAware().attach(m),
    "Cluster": lambda m: callbacks.Cluster(4).attach(m),
    "Distill": lambda m: distill.Distill(KERAS).attach(m),
    "Distill_teacher": lambda m: distill.Distill(m).attach(KERAS),
    "cached": lambda m: distill.cached(m, __import__("tensorflow").data.Dataset.from_tensors((x, y)), "rows"),
    "StructuredSparse": lambda m: optimizers.StructuredSparse("sgd", m),
}
WRONG = {
    "none": (lambda: None, "Received: None"),
    "path": (lambda: "model.keras", "legacy.load"),
    "list": (lambda: [1], "Received: list"),
    "class": (lambda: keras.Model, "class Model"),
    "result": (lambda: legacy.Legacy(KERAS), "Received: Legacy. Give the model in it, which is its attribute `model`"),
}
TAKES_PATHS = {"pack", "to_tflite"}  # and says so of a path


@pytest.mark.parametrize("function", TAKE_A_MODEL)
def test_something_else_is_refused_in_one_way(function):
    for wrong, (make, said) in WRONG.items():
        if (wrong == "path" and function in TAKES_PATHS) or (wrong == "none" and function in ("Distill_teacher",)):
            continue
        with pytest.raises(TfstructError, match=said):
            TAKE_A_MODEL[function](make())


def test_a_torch_module_is_named():
    module = type("Module", (), {"__module__": "torch.nn.modules.module"})
    net = type("Net", (module,), {"__module__": "mine"})
    with pytest.raises(ModelError, match=r"Net of torch\. Only Keras 3"):
        tfstruct.explain(net())


@pytest.fixture(scope="module")
def keras2():
    tf_keras = pytest.importorskip("tf_keras")
    model = tf_keras.Sequential([tf_keras.layers.Input((4,)), tf_keras.layers.Dense(3)], name="old")
    model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize("function", TAKE_A_MODEL)
def test_a_keras_2_model_is_told_the_way(function, keras2):
    with pytest.raises(ModelError, match=r"`old` of tf_keras .*tfstruct\.legacy\.load\(model\)"):
        TAKE_A_MODEL[function](keras2)


@pytest.mark.parametrize("make", [
    lambda: callbacks.Prune(0.5), lambda: callbacks.PruneChannels(0.5), callbacks.QuantizeAware,
    lambda: callbacks.Cluster(4), lambda: distill.Distill(KERAS), callbacks.Diagnose, callbacks.LearningRateFinder,
    lambda: callbacks.AdaptiveBatchSize(2, 4),
])  # fmt: skip
def test_callbacks_in_a_keras_2_fit_are_told_the_way(make, keras2):
    with pytest.raises(ModelError, match=r"tfstruct\.legacy\.load"):
        keras2.fit(x, y, callbacks=[make()], verbose=0)


@pytest.mark.parametrize(
    "before", ["import tensorflow_model_optimization", "import os; os.environ['TF_USE_LEGACY_KERAS'] = '1'"]
)
@pytest.mark.sweep(1)
def test_legacy_loads_whatever_came_first(before, tmp_path):
    pytest.importorskip("tensorflow_model_optimization")
    code = f"""
        {before}
        import tensorflow_model_optimization as tfmot, tf_keras
        from tfstruct import legacy
        inner = tf_keras.Sequential([tf_keras.layers.Input((8,)), tf_keras.layers.Dense(4)])
        tfmot.sparsity.keras.prune_low_magnitude(inner).save({str(tmp_path / "p.h5")!r})
        print(type(legacy.load({str(tmp_path / "p.h5")!r})).__module__)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.stdout.split()[-1:] and done.stdout.split()[-1].startswith("keras."), done.stderr[-2000:]
