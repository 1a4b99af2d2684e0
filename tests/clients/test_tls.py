"""TLS on the server's own port, by clients that people use: curl, Python's own, tritonclient.http, and our health check."""

import http.client
import json
import pathlib
import shutil
import signal
import ssl
import subprocess
import time

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from conftest import BINARY, CERTIFICATE, CLIENTS_ASKED, PATIENCE, TLS, Served, Sordino, trusting

CA = str(TLS / "test-authority.pem")
PAIR = (str(TLS / "test-client.pem"), str(TLS / "test-client.key"))


@pytest.fixture(scope="module")
def secured(own_model):
    server = Sordino("--config", own_model / "sordino.toml", *CERTIFICATE, tls=trusting())
    yield Served(server)
    assert server.stop() == 0


@pytest.fixture(scope="module")
def strict(own_model):
    server = Sordino("--config", own_model / "sordino.toml", *CLIENTS_ASKED, tls=trusting(shows=True))
    yield Served(server)
    assert server.stop() == 0


def request(served, rows):
    tensor = {"name": served.input, "shape": list(rows.shape), "datatype": "FP32", "data": rows.ravel().tolist()}
    return json.dumps({"inputs": [tensor]})


def test_tritonclient_http(secured):
    rows = secured.rows(3)
    options = {"ca_certs": CA}
    with triton.InferenceServerClient(secured.server.address, ssl=True, ssl_options=options) as client:
        assert client.is_server_ready() and client.is_model_ready(secured.name)
        tensor = triton.InferInput(secured.input, list(rows.shape), "FP32")
        tensor.set_data_from_numpy(rows, binary_data=True)
        probabilities = client.infer(secured.name, [tensor]).as_numpy("probabilities")
    assert probabilities.shape == (3, secured.n_classes) and np.allclose(probabilities.sum(axis=1), 1)


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
@pytest.mark.parametrize("version", [["--http1.1"], ["--http2"], ["--tls-max", "1.2"], ["--tlsv1.3"]])
def test_curl(secured, strict, version):
    def curl(served, *more):
        command = ["curl", "-sS", "--fail", "--cacert", CA, *version, *more, "--data-binary", "@-"]
        url = f"{served.server.url}/v2/models/{served.name}/infer"
        body = request(served, served.rows(2)).encode()
        return subprocess.run([*command, url], input=body, capture_output=True, timeout=PATIENCE)

    plain = curl(secured)
    assert plain.returncode == 0, plain.stderr
    assert json.loads(plain.stdout)["outputs"][0]["shape"] == [2, secured.n_classes]
    shown = curl(strict, "--cert", PAIR[0], "--key", PAIR[1])
    assert shown.returncode == 0 and json.loads(shown.stdout)["outputs"] == json.loads(plain.stdout)["outputs"]
    assert curl(strict).returncode != 0, "no certificate was shown"


def test_a_client_must_show_a_certificate_where_it_is_asked_for_one(strict):
    assert strict.server.get("/v2/health/ready")[0] == 200
    connection = http.client.HTTPSConnection(strict.server.address, timeout=PATIENCE, context=trusting())
    with pytest.raises((ssl.SSLError, ConnectionError)):
        connection.request("GET", "/v2/health/ready")
        connection.getresponse()
    client = httpx.Client(verify=trusting(shows=True))
    assert client.post(f"{strict.server.url}/v1/models/{strict.name}:predict", json={"instances": [[0.5] * 64]}).is_success


def test_who_speaks_no_tls_is_told_so_and_the_operator_needs_none(secured):
    connection = http.client.HTTPConnection(secured.server.address, timeout=PATIENCE)
    connection.request("GET", "/v2/health/ready")
    answer = connection.getresponse()
    assert answer.status == 400 and b"speaks TLS" in answer.read()
    status, metrics = secured.server.get("/metrics", secured.server.metrics_address)
    assert status == 200 and b'sordino_tls_handshake_failures_total{reason="not_tls"}' in metrics


def healthcheck(*arguments):
    command = [BINARY, "healthcheck", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)


def test_the_health_check_asks_over_tls(secured, strict):
    url = f"{secured.server.url}/v2/health/ready"
    assert healthcheck("--url", url, "--ca-file", CA).returncode == 0
    unknown = healthcheck("--url", url, "--ca-file", PAIR[0])
    assert unknown.returncode == 1 and "no authority that is trusted" in unknown.stderr
    url = f"{strict.server.url}/v2/health/ready"
    pair = ("--client-certificate-file", PAIR[0], "--client-key-file", PAIR[1])
    assert healthcheck("--url", url, "--ca-file", CA, *pair).returncode == 0
    assert "wants a client certificate" in healthcheck("--url", url, "--ca-file", CA).stderr


def test_new_files_are_taken_and_the_drain_answers_what_runs(own_model, tmp_path):
    for name in ("test-server.pem", "test-server.key"):
        shutil.copy(TLS / name, tmp_path / name)
    config = tmp_path / "sordino.toml"
    files = 'cert_file = "test-server.pem"\nkey_file = "test-server.key"\nreload_seconds = 0.05\n'
    config.write_text((own_model / "sordino.toml").read_text() + f"[tls]\n{files}")
    shutil.copy(own_model / "clf.onnx", tmp_path)
    server = Sordino("--config", config, tls=trusting())
    kept = http.client.HTTPSConnection(server.address, timeout=PATIENCE, context=trusting())
    kept.request("GET", "/v2")
    assert kept.getresponse().read()

    def becomes(source, line):
        staged = pathlib.Path(f"{tmp_path}/staged")
        shutil.copy(source, staged)
        staged.replace(tmp_path / "test-server.pem")
        for _ in range(PATIENCE * 20):
            if line in server.get("/metrics", server.metrics_address)[1].decode():
                return
            time.sleep(0.05)
        raise AssertionError(f"{line} did not come")

    becomes(TLS / "test-client.pem", 'sordino_tls_reloads_total{outcome="failed"} 1')
    assert server.get("/v2/health/ready")[0] == 200, "a certificate that is not the key's is not taken"
    becomes(TLS / "test-server-expired.pem", 'sordino_tls_reloads_total{outcome="ok"} 1')
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        server.get("/v2/health/ready")
    kept.request("GET", "/v2")
    assert kept.getresponse().read(), "connections that are open stay"
    assert server.stop(signal.SIGTERM) == 0


def test_what_is_wrong_with_the_files_is_told_and_never_the_key(own_model, tmp_path):
    def serve(*arguments):
        command = [BINARY, "serve", "--config", own_model / "sordino.toml", "--listen", "127.0.0.1:0", "--metrics-listen", "off"]
        return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=PATIENCE)

    alone = serve("--tls-cert-file", TLS / "test-server.pem")
    assert alone.returncode == 2 and "tls.key_file: TLS needs a certificate and its key" in alone.stderr
    missing = serve("--tls-cert-file", tmp_path / "none", "--tls-key-file", TLS / "test-server.key")
    assert missing.returncode == 2 and "tls.cert_file: cannot read" in missing.stderr
    key = tmp_path / "loose.key"
    shutil.copy(TLS / "test-client.key", key)
    key.chmod(0o644)
    other = serve("--tls-cert-file", TLS / "test-server.pem", "--tls-key-file", key)
    assert other.returncode == 1 and "the key is not that of the certificate" in other.stderr
    assert "may read or change the key" in other.stderr
    key.chmod(0o640)
    assert "may read" not in serve("--tls-cert-file", TLS / "test-server.pem", "--tls-key-file", key).stderr
    secret = key.read_text().splitlines()[1]
    assert all(secret not in ended.stderr + ended.stdout for ended in (alone, missing, other))
