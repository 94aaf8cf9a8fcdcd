"""Runs tflite-micro in a process of its own; started by `micro.py`, never imported by it.

A kernel of the microcontroller runtime may end the process on a model it does not expect, and what the runtime
has to say goes to the file descriptor of stderr. `micro_child.py run FOLDER` runs one model on prepared inputs;
`micro_child.py probe FOLDER FIRST` runs files of one operator each on zeros and prints a JSON line a file.
"""

import json
import os
import sys
import tempfile

import numpy as np
from tflite_micro import runtime


def run(folder: str) -> None:
    with open(os.path.join(folder, "request.json")) as file:
        request = json.load(file)
    interpreter = runtime.Interpreter.from_file(os.path.join(folder, "model.tflite"), arena_size=request["arena"])
    inputs = [np.load(os.path.join(folder, f"in{i}.npy")) for i in range(request["inputs"])]
    results: list[list[np.ndarray]] = [[] for _ in range(request["outputs"])]
    for step in range(request["steps"]):
        for place, values in enumerate(inputs):
            interpreter.set_input(values[step], place)
        interpreter.invoke()
        for place, found in enumerate(results):
            found.append(np.array(interpreter.get_output(place)))
    interpreter.print_allocations()
    for place, found in enumerate(results):
        np.save(os.path.join(folder, f"out{place}.npy"), np.stack(found))


def probe(folder: str, first: int) -> None:
    with open(os.path.join(folder, "request.json")) as file:
        request = json.load(file)
    for number in range(first, len(request["inputs"])):
        with tempfile.TemporaryFile() as log:
            os.dup2(log.fileno(), 2)
            error = ""
            try:
                path = os.path.join(folder, f"{number}.tflite")
                interpreter = runtime.Interpreter.from_file(path, arena_size=request["arena"])
                for place in range(request["inputs"][number]):
                    detail = interpreter.get_input_details(place)
                    interpreter.set_input(np.zeros(detail["shape"], detail["dtype"]), place)
                interpreter.invoke()
            except Exception as problem:
                log.seek(0)
                lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
                error = lines[0] if lines else f"{type(problem).__name__}: {problem}"
        print(json.dumps({"number": number, "error": error}), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "run":
        run(sys.argv[2])
    else:
        probe(sys.argv[2], int(sys.argv[3]))
