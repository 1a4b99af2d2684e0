"""The other engine: the bundled classifier on ONNX Runtime, answered as on tract.

Only builds with the feature `onnxruntime` have it; others say so, and are skipped here.
"""

import glob
import os
import subprocess

import numpy as np
import onnxruntime
import pytest
import tritonclient.http as triton
from conftest import BINARY, PATIENCE, Sordino

LIBRARY = glob.glob(os.path.join(os.path.dirname(onnxruntime.__file__), "capi", "libonnxruntime.so.*"))[0]


def refused(*arguments):
    command = [BINARY, "serve", "--listen", "127.0.0.1:0", "--metrics-listen", "off", "--engine", "onnxruntime", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)


def test_a_missing_library_stops_the_start_in_words():
    done = refused("--engine-library", "/nowhere/libonnxruntime.so")
    assert done.returncode == 1 and "onnxruntime: " in done.stderr and "panic" not in done.stderr, done.stderr
    assert "/nowhere/libonnxruntime.so" in done.stderr or "feature `onnxruntime`" in done.stderr, done.stderr


@pytest.mark.parametrize("batching", [(), ("--batch-max-size", "16")])
def test_answers_are_those_of_tract(batching):
    if "feature `onnxruntime`" in refused("--engine-library", "/nowhere").stderr:
        pytest.skip("this build has no feature onnxruntime")
    rows = np.random.default_rng(3).random((40, 1, 28, 28), dtype=np.float32)

    def answers(server):
        client = triton.InferenceServerClient(server.address)
        name = server.metadata()["inputs"][0]["name"]
        found = []
        for part in (rows[:1], rows[1:3], rows[3:]):
            tensor = triton.InferInput(name, part.shape, "FP32")
            tensor.set_data_from_numpy(part)
            output = triton.InferRequestedOutput("probabilities")
            found.append(client.infer(server.name, [tensor], outputs=[output]).as_numpy("probabilities"))
        assert server.stop() == 0
        return np.concatenate(found)

    tract = answers(Sordino())
    other = answers(Sordino("--engine", "onnxruntime", "--engine-library", LIBRARY, *batching))
    assert np.abs(tract - other).max() < 1e-5
