"""Starts the binary on free ports. SORDINO_BIN names it; without it, target/release/sordino."""

import http.client
import json
import os
import pathlib
import re
import signal
import socket
import ssl
import subprocess

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("SORDINO_BIN", ROOT / "target/release/sordino")).resolve()
PATIENCE = 30
TLS = ROOT / "tests/fixtures/tls"
CERTIFICATE = ("--tls-cert-file", TLS / "test-server.pem", "--tls-key-file", TLS / "test-server.key")
CLIENTS_ASKED = (*CERTIFICATE, "--tls-client-ca-file", TLS / "test-authority.pem")


def trusting(shows=False):
    """An SSL context that trusts the tests' authority, and shows the tests' certificate or none."""
    context = ssl.create_default_context(cafile=TLS / "test-authority.pem")
    if shows:
        context.load_cert_chain(TLS / "test-client.pem", TLS / "test-client.key")
    return context


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as holder:
        return holder.getsockname()[1]


class Sordino:
    """A running server; `tls` is an SSL context where it speaks TLS."""

    def __init__(self, *arguments, cwd=None, listen=("--listen", "127.0.0.1:0"), tls=None):
        command = [BINARY, "serve", *listen, "--metrics-listen", "127.0.0.1:0", *map(str, arguments)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=cwd
        )
        self.line = self.process.stdout.readline()
        scheme = "http" if tls is None else "https"
        found = re.search(rf"serves '(.+)' on {scheme}://(\S+) \(metrics: http://(\S+)/metrics\)", self.line)
        assert found, f"no start line: {self.line!r}, exit code {self.process.wait(PATIENCE)}"
        self.name, self.address, self.metrics_address = found.groups()
        self.url = f"{scheme}://{self.address}"
        self.tls = tls

    def get(self, path, address=None):
        if self.tls is None or address is not None:
            connection = http.client.HTTPConnection(address or self.address, timeout=PATIENCE)
        else:
            connection = http.client.HTTPSConnection(self.address, timeout=PATIENCE, context=self.tls)
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()

    def metadata(self):
        return json.loads(self.get(f"/v2/models/{self.name}")[1])

    def stop(self, word=signal.SIGTERM):
        self.process.send_signal(word)
        return self.process.wait(PATIENCE)


class Served:
    """A server with what a test needs to know of its model."""

    def __init__(self, server):
        metadata = server.metadata()
        self.server = server
        self.name = server.name
        self.input = metadata["inputs"][0]["name"]
        self.row = metadata["inputs"][0]["shape"][1:]
        self.n_classes = metadata["outputs"][0]["shape"][1]

    def rows(self, n, seed=7):
        return np.random.default_rng(seed).random((n, *self.row), dtype=np.float32)


def linear_model(path):
    """A model of one layer, 64 values to 10 logits."""
    rng = np.random.default_rng(11)
    weight = rng.standard_normal((64, 10)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["logits"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return weight


LABEL_ONLY = '[defence]\nmethod = "label-only"\n'


@pytest.fixture(scope="session")
def own_model(tmp_path_factory):
    """A folder with a model and settings that need no centroid file."""
    folder = tmp_path_factory.mktemp("own")
    linear_model(folder / "clf.onnx")
    (folder / "sordino.toml").write_text(f'[model]\npath = "clf.onnx"\n{LABEL_ONLY}')
    return folder


@pytest.fixture(scope="session", params=["bundled", "own"])
def served(request, own_model, tmp_path_factory):
    """The bundled classifier from an empty folder, and a model of one's own."""
    if request.param == "bundled":
        server = Sordino(cwd=tmp_path_factory.mktemp("empty"))
    else:
        server = Sordino("--config", own_model / "sordino.toml")
    yield Served(server)
    assert server.stop() == 0


@pytest.fixture(scope="session")
def bundled(tmp_path_factory):
    server = Sordino(cwd=tmp_path_factory.mktemp("empty"))
    yield Served(server)
    assert server.stop() == 0
