"""Replicas, processes and Ray's workers: the masks, ranges, plans and fronts of one process alone."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest
from jobs import FITS
from kills import differences, ended, killed_and_gone_on

pytestmark = pytest.mark.slow
HERE = pathlib.Path(__file__).parent
# A criterion that looks at data or adds up what it saw can order two near scores the other way.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.mark.parametrize("compressors", FITS)
def test_replicas_on_one_processor(forks, tmp_path, compressors):
    alone = ended(forks, "mirrored", tmp_path / "1", replicas=1, compressors=compressors).outcome
    for replicas in (2, 4):
        found = ended(forks, "mirrored", tmp_path / str(replicas), replicas=replicas, compressors=compressors).outcome
        for name in ("masks", "values", "plan"):
            assert found[name] == alone[name], (replicas, name, differences(found[name], alone[name])[:5])
        for one, other in zip(found["kernels"], alone["kernels"], strict=True):
            np.testing.assert_allclose(one, other, **CLOSE)
        assert found["ranges"].keys() == alone["ranges"].keys()
        for name, ends in alone["ranges"].items():
            np.testing.assert_allclose(found["ranges"][name], ends, **CLOSE, err_msg=name)
        print(f"\n{compressors}: {replicas} replicas as one: masks, plan; ranges of {len(found['ranges'])} tensors")


PROCESS = """
import json, os, sys
port, index, file = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
workers = [f"localhost:{port}", f"localhost:{port + 1}"]
os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}})
import tensorflow as tf
strategy = tf.distribute.MultiWorkerMirroredStrategy()  # before anything else of TensorFlow
from by_hand import by_hand
with open(file, "w") as out:
    json.dump(by_hand(strategy), out)
"""


def test_two_processes_by_hand(tmp_path):
    """Under MultiWorkerMirroredStrategy, where Keras 3.15's `fit` fails: all compressors, in a loop of one's own."""
    with socket.socket() as one, socket.socket() as two:
        one.bind(("localhost", 0))
        port = one.getsockname()[1]
        two.bind(("localhost", port + 1))
    places = (HERE.parents[1], HERE.parent, HERE.parent / "callbacks", HERE)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places)), "CUDA_VISIBLE_DEVICES": "-1"}
    files = [tmp_path / f"{index}.json" for index in range(2)]
    started = [
        subprocess.Popen([sys.executable, "-c", PROCESS, str(port), str(index), file], env=environment)
        for index, file in enumerate(files)
    ]
    try:
        assert [worker.wait(600) for worker in started] == [0, 0]
    finally:
        for worker in started:
            worker.kill()
    first, second = (json.loads(file.read_text()) for file in files)
    alone = tmp_path / "alone.json"
    code = f"import json\nfrom by_hand import by_hand\njson.dump(by_hand(None), open({str(alone)!r}, 'w'))"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=600)
    wanted = json.loads(alone.read_text())
    for name, expected in wanted.items():
        assert first[name]["masks"] == second[name]["masks"] == expected["masks"], name
        for one, other, w in zip(first[name]["kernels"], second[name]["kernels"], expected["kernels"], strict=True):
            np.testing.assert_array_equal(one, other)
            np.testing.assert_allclose(one, w, **CLOSE)
        assert first[name]["ranges"] == second[name]["ranges"]
        for key, ends in expected["ranges"].items():
            np.testing.assert_allclose(first[name]["ranges"][key], ends, **CLOSE, err_msg=f"{name} {key}")
        print(f"\n{name}: two processes as one")


def test_ray_workers_find_the_same_front(forks, tmp_path, model):
    """That one of them is killed changes nothing: `test_search.py` holds it for a search whose trials cost nothing."""
    pytest.importorskip("ray", reason="workers need Ray")
    alone = ended(forks, "search", tmp_path / "alone", model=model).outcome
    two = ended(forks, "search", tmp_path / "two", model=model, workers=2).outcome
    assert two == alone, differences(two, alone)[:5]


def test_one_run_is_killed_while_ray_workers_train(forks, tmp_path, model):
    pytest.importorskip("ray", reason="workers need Ray")
    killed_and_gone_on(forks, "search", tmp_path, 2, model=model, workers=2)
