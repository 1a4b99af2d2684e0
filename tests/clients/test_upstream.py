"""In front of servers that we did not write: the same answers as from the model itself, and no raw score in any of them.

KServe's ModelServer comes with the package of its client. The others are large, so each is looked for and skipped when it is not there:

- Triton: SORDINO_TRITON names a virtual environment made by Debian's /usr/bin/python3 with `pip install nvidia-pytriton "numpy<2"`
- MLServer: SORDINO_MLSERVER names its program, `.../bin/mlserver`
"""

import asyncio
import http.client
import json
import os
import pathlib
import shutil
import socket
import ssl
import subprocess
import sys
import time

import numpy as np
import pytest
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

from conftest import BINARY, PATIENCE, ROOT, Sordino, linear_model

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


# Says what it takes and gives only if it is told to: many who write such a class leave that out.
KSERVE_MODEL = """
import numpy as np
from kserve import InferOutput, InferResponse, Model, ModelServer
WEIGHT = np.load({weight!r})
class Linear(Model):
    def __init__(self):
        super().__init__("clf")
        self.ready = True
    def get_input_types(self):
        return [{{"name": "x", "datatype": "FP32", "shape": [-1, 64]}}] if {tells} else []
    def get_output_types(self):
        return [{{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}}] if {tells} else []
    def predict(self, payload, headers=None, response_headers=None):
        if isinstance(payload, dict):
            return {{"predictions": (np.array(payload["instances"], "float32") @ WEIGHT).tolist()}}
        x = payload.inputs[0].as_numpy().astype("float32")
        binary = any((o.parameters or {{}}).get("binary_data") for o in payload.request_outputs or [])
        outputs = []
        for name, values in (("logits", x @ WEIGHT), ("embedding", x[:, :8])):
            outputs.append(InferOutput(name, list(values.shape), "FP32"))
            outputs[-1].set_data_from_numpy(values, binary_data=bool(binary))
        return InferResponse(payload.id, self.name, outputs)
ModelServer().start([Linear()])
"""

TLS = ROOT / "tests/fixtures/tls"


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

    def __init__(self, command, http_port, grpc_port, ready="/v2/models/clf/ready", tls=False, **options):
        self.http_port, self.grpc_port = http_port, grpc_port
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
        for _ in range(600):
            try:
                if tls:
                    context = ssl.create_default_context(cafile=TLS / "test-authority.pem")
                    connection = http.client.HTTPSConnection("127.0.0.1", http_port, timeout=2, context=context)
                else:
                    connection = http.client.HTTPConnection("127.0.0.1", http_port, timeout=2)
                connection.request("GET", ready)
                if connection.getresponse().status == 200:
                    return
            except OSError:
                pass
            assert self.process.poll() is None, "the server has ended"
            time.sleep(0.2)
        raise AssertionError("the server did not become ready")

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            # KServe's waits half a minute for connections that are kept.
            self.process.kill()
            self.process.wait(PATIENCE)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    weight = linear_model(folder / "clf.onnx")
    np.save(folder / "weight.npy", weight)
    (folder / "sordino.toml").write_text('[model]\npath = "clf.onnx"\nname = "clf"\n[defence]\nmethod = "label-only"\n')
    return folder


def start_triton(model, tmp_path_factory, *more):
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
    command += ["--model-control-mode", "explicit", "--load-model", "clf", "--exit-timeout-secs", 5, *more]
    paths = {"LD_LIBRARY_PATH": str(packages / "nvidia_pytriton.libs"), "PYTHONPATH": str(packages)}
    paths["PATH"] = f"{venv}/bin:/usr/bin:/bin"
    return Peer([str(word) for word in command], http_port, grpc_port, env={**os.environ, **paths})


@pytest.fixture(scope="module")
def triton(model, tmp_path_factory):
    peer = start_triton(model, tmp_path_factory)
    yield peer
    peer.stop()


@pytest.fixture(scope="module")
def triton_tls(model, tmp_path_factory):
    """gRPC over TLS, which asks for a certificate too; REST stays plain, since this server has no TLS for it."""
    files = ["--grpc-server-cert", TLS / "test-server.pem", "--grpc-server-key", TLS / "test-server.key"]
    files += ["--grpc-root-cert", TLS / "test-authority.pem"]
    peer = start_triton(model, tmp_path_factory, "--grpc-use-ssl", 1, "--grpc-use-ssl-mutual", 1, *files)
    yield peer
    peer.stop()


def start_kserve(model, folder, *more, tells=True, tls=False):
    (folder / "server.py").write_text(KSERVE_MODEL.format(weight=str(model / "weight.npy"), tells=tells))
    http_port, grpc_port = free_ports(2)
    command = [sys.executable, folder / "server.py", "--http_port", http_port, "--grpc_port", grpc_port, "--workers", 1, *more]
    return Peer([str(word) for word in command], http_port, grpc_port, ready="/v1/models/clf", tls=tls)


@pytest.fixture(scope="module")
def kserve(model, tmp_path_factory):
    peer = start_kserve(model, tmp_path_factory.mktemp("kserve"))
    yield peer
    peer.stop()


@pytest.fixture(scope="module")
def silent_kserve(model, tmp_path_factory):
    """Tells nothing about its model."""
    peer = start_kserve(model, tmp_path_factory.mktemp("silent"), tells=False)
    yield peer
    peer.stop()


@pytest.fixture(scope="module")
def kserve_tls(model, tmp_path_factory):
    files = ["--ssl_certfile", TLS / "test-server.pem", "--ssl_keyfile", TLS / "test-server.key"]
    peer = start_kserve(model, tmp_path_factory.mktemp("kserve_tls"), *files, tls=True)
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


def answers(body):
    """An answer without the words that are the model's own."""
    body = json.loads(body)
    return {output["name"]: output for output in body["outputs"] if output["name"] != "predictions"}


def in_front(model, peer, protocol, about="", scheme="http"):
    """Ours, with `about` added to its table `upstream`."""
    config = model / f"{protocol}.toml"
    scores = "" if protocol == "kserve-v1" else 'score_output = "logits"\n'
    config.write_text(
        f'[model]\n{scores}score_kind = "logits"\n[defence]\nmethod = "label-only"\n[upstream]\n{about}\n'
    )
    port = peer.grpc_port if protocol == "oip-grpc" else peer.http_port
    return Sordino(
        "--config", config, "--upstream", f"{scheme}://127.0.0.1:{port}", "--upstream-model", "clf", "--upstream-protocol", protocol
    )


def agrees(model, peer, protocol, about="", scheme="http"):
    ours = in_front(model, peer, protocol, about, scheme)
    local = Sordino("--config", model / "sordino.toml")
    try:
        status, body = ask(ours)
        assert status == 200, body
        expected = json.loads(ask(local)[1])
        if protocol == "kserve-v1":
            # Its output has no name: the protocol gives it none.
            expected["outputs"] = [output for output in expected["outputs"] if output["name"] == "probabilities"]
        assert answers(body) == answers(json.dumps(expected))
        raw = (ROWS @ np.load(model / "weight.npy")).ravel()
        assert not any(f"{value:.4f}"[:7].encode() in body for value in raw)
        named = {output["name"] for output in ours.metadata()["outputs"]}
        assert named <= {"logits", "probabilities", "predictions"}, named
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


INPUT = '[{ name = "x", datatype = "FP32", shape = [-1, 64] }]'


@pytest.mark.parametrize("protocol", ["oip-http", "oip-grpc"])
def test_kserve_is_defended(model, kserve, protocol):
    agrees(model, kserve, protocol)


def test_kserve_is_defended_with_raw_tensors(model, kserve):
    agrees(model, kserve, "oip-http", "binary = true")


@pytest.mark.parametrize("protocol", ["oip-http", "oip-grpc", "kserve-v1"])
def test_a_kserve_that_tells_nothing_of_its_model_is_defended(model, silent_kserve, protocol):
    agrees(model, silent_kserve, protocol, f"n_classes = 10\ninputs = {INPUT}")


@pytest.mark.parametrize("protocol", ["v1", "v2", "grpc-v2"])
def test_a_transformer_container_stands_before_kserves_predictor(model, kserve, protocol):
    """Started by KServe's own flags, asked by KServe's own clients."""
    config = model / f"transformer-{protocol}.toml"
    about = f"[upstream]\nn_classes = 10\ninputs = {INPUT}\n" if protocol == "v1" else ""
    config.write_text(f'[model]\nscore_kind = "logits"\nscore_output = "{"predictions" if protocol == "v1" else "logits"}"\n[defence]\nmethod = "label-only"\n{about}')
    http_port, grpc_port = free_ports(2)
    behind = kserve.grpc_port if protocol == "grpc-v2" else kserve.http_port
    flags = ["--model_name=clf", f"--predictor_host=localhost:{behind}", f"--predictor_protocol={protocol}"]
    flags += [f"--http_port={http_port}", f"--grpc_port={grpc_port}", "--workers=1", "--predictor_use_ssl=false"]
    flags += ["--predictor_request_timeout_seconds=600", "--predictor_request_retries=1", "--enable_predictor_health_check"]
    ours = Sordino(*flags, "--config", config, listen=())
    raw = ROWS @ np.load(model / "weight.npy")

    async def conversation():
        url = f"http://127.0.0.1:{http_port}"
        v1 = InferenceRESTClient(RESTConfig(protocol="v1", retries=0, timeout=PATIENCE))
        v2 = InferenceRESTClient(RESTConfig(protocol="v2", retries=0, timeout=PATIENCE))
        grpc = InferenceGRPCClient(f"127.0.0.1:{grpc_port}", timeout=PATIENCE)
        tensor = InferInput("x", list(ROWS.shape), "FP32")
        tensor.set_data_from_numpy(ROWS, binary_data=False)
        asked = InferRequest(model_name="clf", infer_inputs=[tensor], request_id="k1")
        try:
            assert await v2.is_server_ready(url) and await v2.is_model_ready(url, "clf")
            by_v1 = await v1.infer(url, {"instances": ROWS.tolist()}, model_name="clf")
            by_v2 = await v2.infer(url, asked, model_name="clf")
            by_grpc = await grpc.infer(asked)
        finally:
            await v1.close()
            await v2.close()
            await grpc.close()
        scores = lambda answer: {output.name: output for output in answer.outputs}["probabilities"].as_numpy()
        return [np.array(by_v1["predictions"]), scores(by_v2), scores(by_grpc)]

    try:
        for scores in asyncio.run(conversation()):
            assert scores.shape == raw.shape and (scores.argmax(1) == raw.argmax(1)).all()
            assert set(np.unique(scores)) == {0.0, 1.0}
    finally:
        ours.stop()


def test_kserve_is_asked_over_tls(model, kserve_tls):
    ca_file = f'ca_file = "{TLS / "test-authority.pem"}"'
    agrees(model, kserve_tls, "oip-http", ca_file, scheme="https")
    agrees(model, kserve_tls, "kserve-v1", f"{ca_file}\nn_classes = 10\ninputs = {INPUT}", scheme="https")


def test_triton_is_asked_over_tls_that_proves_both_sides(model, triton_tls):
    files = f'ca_file = "{TLS / "test-authority.pem"}"\nclient_certificate_file = "{TLS / "test-client.pem"}"\n'
    agrees(model, triton_tls, "oip-grpc", files + f'client_key_file = "{TLS / "test-client.key"}"', scheme="grpcs")


def test_check_lists_what_triton_leaves_open(triton):
    command = [BINARY, "check", "--upstream", f"http://127.0.0.1:{triton.http_port}", "--model", "clf", "--json"]
    command += ["--grpc", f"127.0.0.1:{triton.grpc_port}"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 3, ended.stderr
    findings = json.loads(ended.stdout)
    assert findings["server"] == "triton"
    open_paths = {finding["path"] for finding in findings["findings"] if finding["state"] == "open"}
    assert {1, 2, 3, 4, 5, 7, 9, 10, 12} <= open_paths, findings
