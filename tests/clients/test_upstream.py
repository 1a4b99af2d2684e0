"""In front of servers that we did not write: the same answers as from the model itself, and no raw score in any of them.

Each server is large, so each is looked for and skipped when it is not there:

- Triton: SORDINO_TRITON names a virtual environment made by Debian's /usr/bin/python3 with `pip install nvidia-pytriton "numpy<2"`
- MLServer: SORDINO_MLSERVER names its program, `.../bin/mlserver`
"""

import http.client
import json
import os
import pathlib
import shutil
import socket
import subprocess
import time

import numpy as np
import pytest

from conftest import BINARY, PATIENCE, Sordino, linear_model

ROWS = np.random.default_rng(5).random((3, 64), dtype=np.float32)

TRITON_MODEL = """
import numpy as np, triton_python_backend_utils as pb
WEIGHT = np.load({weight!r})
class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            x = pb.get_input_tensor_by_name(request, "x").as_numpy()
            y = (x @ WEIGHT).astype("float32")
            answers.append(pb.InferenceResponse(output_tensors=[pb.Tensor("logits", y), pb.Tensor("embedding", x[:, :8])]))
        return answers
"""

TRITON_CONFIG = """
name: "clf"
backend: "python"
max_batch_size: 64
input [{ name: "x" data_type: TYPE_FP32 dims: [64] }]
output [{ name: "logits" data_type: TYPE_FP32 dims: [10] }, { name: "embedding" data_type: TYPE_FP32 dims: [8] }]
instance_group [{ kind: KIND_CPU count: 1 }]
"""

MLSERVER_MODEL = """
import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse
WEIGHT = np.load({weight!r})
class Linear(MLModel):
    async def predict(self, payload):
        x = NumpyCodec.decode_input(payload.inputs[0]).astype("float32")
        outputs = [NumpyCodec.encode_output("logits", x @ WEIGHT), NumpyCodec.encode_output("embedding", x[:, :8])]
        return InferenceResponse(id=payload.id, model_name=self.name, model_version=self.version, outputs=outputs)
"""


def free_ports(n):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def named_by(variable, program=""):
    path = os.environ.get(variable)
    if not path or not pathlib.Path(path, program).exists():
        pytest.skip(f"{variable} names nothing that holds {program or 'the server'}")
    return pathlib.Path(path)


class Peer:
    """A server of somebody else's, with its REST and gRPC ports."""

    def __init__(self, command, http_port, grpc_port, **options):
        self.http_port, self.grpc_port = http_port, grpc_port
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
        for _ in range(600):
            try:
                connection = http.client.HTTPConnection("127.0.0.1", http_port, timeout=2)
                connection.request("GET", "/v2/models/clf/ready")
                if connection.getresponse().status == 200:
                    return
            except OSError:
                pass
            assert self.process.poll() is None, "the server has ended"
            time.sleep(0.2)
        raise AssertionError("the server did not become ready")

    def stop(self):
        self.process.terminate()
        self.process.wait(PATIENCE)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    weight = linear_model(folder / "clf.onnx")
    np.save(folder / "weight.npy", weight)
    (folder / "sordino.toml").write_text('[model]\npath = "clf.onnx"\nname = "clf"\n[defence]\nmethod = "label-only"\n')
    return folder


@pytest.fixture(scope="module")
def triton(model, tmp_path_factory):
    venv = named_by("SORDINO_TRITON", "lib/python3.11/site-packages/pytriton/tritonserver/bin/tritonserver")
    packages = venv / "lib/python3.11/site-packages"
    folder = tmp_path_factory.mktemp("triton")
    shutil.copytree(packages / "pytriton/tritonserver/backends", folder / "backends")
    stub = packages / "pytriton/tritonserver/python_backend_stubs/3.11/triton_python_backend_stub"
    shutil.copy(stub, folder / "backends/python/")
    (folder / "repository/clf/1").mkdir(parents=True)
    (folder / "repository/clf/config.pbtxt").write_text(TRITON_CONFIG)
    (folder / "repository/clf/1/model.py").write_text(TRITON_MODEL.format(weight=str(model / "weight.npy")))
    http_port, grpc_port, metrics_port = free_ports(3)
    command = [packages / "pytriton/tritonserver/bin/tritonserver", "--model-repository", folder / "repository"]
    command += ["--backend-directory", folder / "backends", "--http-address", "127.0.0.1", "--http-port", http_port]
    command += ["--grpc-address", "127.0.0.1", "--grpc-port", grpc_port, "--metrics-port", metrics_port]
    command += ["--model-control-mode", "explicit", "--load-model", "clf", "--exit-timeout-secs", 5]
    paths = {"LD_LIBRARY_PATH": str(packages / "nvidia_pytriton.libs"), "PYTHONPATH": str(packages)}
    paths["PATH"] = f"{venv}/bin:/usr/bin:/bin"
    peer = Peer([str(word) for word in command], http_port, grpc_port, env={**os.environ, **paths})
    yield peer
    peer.stop()


@pytest.fixture(scope="module")
def mlserver(model, tmp_path_factory):
    program = named_by("SORDINO_MLSERVER")
    folder = tmp_path_factory.mktemp("mlserver")
    http_port, grpc_port, metrics_port = free_ports(3)
    settings = {"host": "127.0.0.1", "http_port": http_port, "grpc_port": grpc_port, "metrics_port": metrics_port}
    (folder / "settings.json").write_text(json.dumps({**settings, "parallel_workers": 0}))
    (folder / "linear.py").write_text(MLSERVER_MODEL.format(weight=str(model / "weight.npy")))
    tensors = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 64]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}],
    }
    about = {"name": "clf", "implementation": "linear.Linear", "parameters": {"version": "1"}}
    (folder / "model-settings.json").write_text(json.dumps({**about, **tensors}))
    peer = Peer([str(program), "start", "."], http_port, grpc_port, cwd=folder)
    yield peer
    peer.stop()


def ask(server, rows=ROWS):
    connection = http.client.HTTPConnection(server.address, timeout=PATIENCE)
    tensor = {"name": "x", "shape": list(rows.shape), "datatype": "FP32", "data": rows.ravel().tolist()}
    connection.request("POST", "/v2/models/clf/infer", json.dumps({"inputs": [tensor]}))
    response = connection.getresponse()
    return response.status, response.read()


def agrees(model, peer, protocol):
    config = model / f"{protocol}.toml"
    config.write_text('[model]\nscore_output = "logits"\nscore_kind = "logits"\n[defence]\nmethod = "label-only"\n')
    port = peer.grpc_port if protocol == "oip-grpc" else peer.http_port
    ours = Sordino(
        "--config", config, "--upstream", f"http://127.0.0.1:{port}", "--upstream-model", "clf", "--upstream-protocol", protocol
    )
    local = Sordino("--config", model / "sordino.toml")
    try:
        status, body = ask(ours)
        assert status == 200, body
        assert json.loads(body) == json.loads(ask(local)[1])
        raw = (ROWS @ np.load(model / "weight.npy")).ravel()
        assert not any(f"{value:.4f}"[:7].encode() in body for value in raw)
        assert all(output["name"] in ("logits", "probabilities") for output in ours.metadata()["outputs"])
        assert ours.get("/v2/health/ready")[0] == 200
        assert ask(ours, ROWS[:, :63])[0] == 400
    finally:
        ours.stop()
        local.stop()


@pytest.mark.parametrize("protocol", ["oip-http", "oip-grpc"])
def test_triton_is_defended(model, triton, protocol):
    agrees(model, triton, protocol)


@pytest.mark.parametrize("protocol", ["oip-http", "oip-grpc"])
def test_mlserver_is_defended(model, mlserver, protocol):
    agrees(model, mlserver, protocol)


def test_check_lists_what_triton_leaves_open(triton):
    command = [BINARY, "check", "--upstream", f"http://127.0.0.1:{triton.http_port}", "--model", "clf", "--json"]
    command += ["--grpc", f"127.0.0.1:{triton.grpc_port}"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 3, ended.stderr
    findings = json.loads(ended.stdout)
    assert findings["server"] == "triton"
    open_paths = {finding["path"] for finding in findings["findings"] if finding["state"] == "open"}
    assert {1, 2, 3, 4, 5, 7, 9, 10, 12} <= open_paths, findings
