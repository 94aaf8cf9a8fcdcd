"""Runs TensorFlow's converter in a process of its own; started by `worker.py`, never imported by it.

A conversion can crash the process, leak memory and print to stdout. So this script reads one JSON request a
line from stdin, writes its result to a file, and answers with one JSON line on what was stdout; everything
that TensorFlow prints goes to stderr.
"""

import ctypes
import gc
import json
import os
import signal
import sys
import threading
import time
import traceback


def convert(tf, request: dict) -> bytes:
    """SavedModel -> float `.tflite`; `float16` stores the weights in 16 bits.

    `TFLiteConverter.from_saved_model(...).convert()` loads the SavedModel three times for what its description says,
    and unpacks and packs the file twice, for equal constants and for notes of its own: with the weights each time. Here
    constants lie behind the file's tables, where TensorFlow writes them without that.
    """
    from tensorflow.lite.python import lite
    from tensorflow.python.saved_model.loader_impl import parse_saved_model

    converter = lite.TFLiteSavedModelConverterV2(request["directory"], {tf.saved_model.SERVING}, [request["signature"]])
    converter._experimental_use_buffer_offset = True
    if request["float16"]:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    return converter._convert_from_saved_model(parse_saved_model(request["directory"]).meta_graphs[0].graph_def)


def quantize(tf, request: dict) -> bytes:
    """Float `.tflite` whose tensors carry ranges -> integer `.tflite`."""
    from tensorflow.lite.python import convert as engine

    types = engine._types_pb2
    with open(request["source"], "rb") as file:
        content = file.read()
    # What the converter's own table gives for int16 makes it write 4 bits.
    kinds = {8: (tf.int8, types.INT8), 16: (tf.int16, types.QUANTIZED_INT16)}
    activations, kind = kinds[request["activation_bits"]]
    return engine.mlir_quantize(
        content,
        fully_quantize=not request["keep"],
        inference_type=kind,
        input_data_type=tf.float32 if request["float_input"] else activations,
        output_data_type=tf.float32 if request["float_output"] else activations,
        denylisted_nodes=request["keep"] or None,
    )


def load(tf, request: dict) -> bytes:
    """Whether the interpreter takes a `.tflite`: a delegate that does not may end the process."""
    from ai_edge_litert.interpreter import Interpreter

    Interpreter(model_path=request["source"], num_threads=1).allocate_tensors()
    return b""


def _give_back() -> None:
    """Gives the system the memory that is free again, which the C library would keep for the next request."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
        if trim is not None:
            trim(0)


def _memory() -> int:
    """Bytes that the process holds between requests; where the system does not say, what it took at most, or 0."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def _end_with_parent(parent: int) -> None:
    """Ends the process when its parent is gone, also in the middle of a conversion."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def serve(requests, answers) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # A SavedModel needs no Keras, which is two fifths of the time that TensorFlow takes to load.
    for unused in ("keras", "tf_keras"):
        sys.modules[unused] = None  # type: ignore[assignment]  # Python's way to say that it cannot be imported
    import tensorflow as tf

    # TFLiteConverter collects garbage every time: looking through TensorFlow's objects is half of a small conversion.
    gc.freeze()
    actions = {"convert": convert, "quantize": quantize, "load": load}
    for line in requests:
        request = json.loads(line)
        answer: dict[str, bool | str]
        try:
            content = actions[request["action"]](tf, request)
            with open(request["target"], "wb") as file:
                file.write(content)
            content = b""
            answer = {"ok": True}
        except Exception as error:
            answer = {
                "ok": False,
                "error": f"{type(error).__name__}: {error}",
                "trace": traceback.format_exc(),
            }
        _give_back()
        answers.write(json.dumps({**answer, "memory": _memory()}) + "\n")
        answers.flush()


if __name__ == "__main__":
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: the parent decides
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    serve(sys.stdin, channel)
