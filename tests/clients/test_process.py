"""The process: settings, exit codes, signals."""

import http.client
import signal
import socket
import subprocess

from conftest import BINARY, PATIENCE, Sordino


def serve(*arguments):
    return subprocess.run([BINARY, "serve", *map(str, arguments)], capture_output=True, text=True, timeout=PATIENCE)


def test_the_start_line_names_the_address_and_a_call_to_try(own_model):
    server = Sordino("--config", own_model / "sordino.toml", "--name", "mine")
    assert server.line.count("\n") == 1 and f"curl http://{server.address}/v2/models/mine" in server.line
    status, body = server.get("/metrics", server.metrics_address)
    assert status == 200 and b"sordino_requests_total" not in body and b"sordino_queue_depth 0" in body
    for word in (signal.SIGTERM, signal.SIGINT):
        assert server.stop(word) == 0
        server = Sordino("--config", own_model / "sordino.toml") if word == signal.SIGTERM else server


def test_an_idle_connection_does_not_hold_up_the_end(own_model):
    server = Sordino("--config", own_model / "sordino.toml")
    idle = http.client.HTTPConnection(server.address)
    idle.request("GET", "/v2")
    assert idle.getresponse().status == 200
    assert server.stop() == 0


def test_a_second_signal_ends_at_once(own_model):
    server = Sordino("--config", own_model / "sordino.toml", "--drain-seconds", 600)
    host, port = server.address.rsplit(":", 1)
    with socket.create_connection((host, int(port))) as stuck:
        stuck.sendall(b"POST /v2/models/clf/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n")
        server.get("/v2")
        server.process.send_signal(signal.SIGTERM)
        try:
            server.process.wait(0.5)
            raise AssertionError("the request in progress was not waited for")
        except subprocess.TimeoutExpired:
            pass
        assert server.stop() == 3


def test_all_mistakes_are_reported_together_with_exit_code_2(tmp_path):
    config = tmp_path / "bad.toml"
    config.write_text('[server]\nlisen = "x"\ndrain_seconds = -1\n[defence]\nmethod = "none"\n')
    ended = serve("--config", config, "--threads", 0, "--listen", "nowhere")
    assert ended.returncode == 2 and ended.stdout == ""
    for word in ("server.lisen", "server.drain_seconds", "defence: ", "compute.threads", "server.listen: expected"):
        assert word in ended.stderr, ended.stderr


def test_a_wrong_model_or_artifact_stops_the_start_with_exit_code_1(tmp_path, own_model):
    onnx, config = own_model / "clf.onnx", own_model / "sordino.toml"
    junk = tmp_path / "junk"
    junk.write_bytes(b"not a model")
    for arguments, word in [
        (["--config", config, "--model", junk], "junk"),
        (["--config", config, "--score-output", "nope"], "nope"),
        (["--model", onnx, "--centroids", junk], "centroid file"),
    ]:
        ended = serve(*arguments, "--listen", "127.0.0.1:0", "--metrics-listen", "off")
        assert ended.returncode == 1 and word in ended.stderr, (arguments, ended)


def test_files_that_cannot_be_read_are_mistakes_among_the_others(tmp_path):
    ended = serve("--model", tmp_path / "m.onnx", "--centroids", tmp_path / "c.safetensors", "--drain-seconds", -1)
    assert ended.returncode == 2
    for word in ("m.onnx", "c.safetensors", "server.drain_seconds: expected 0 to"):
        assert word in ended.stderr, ended.stderr


def test_an_address_in_use_is_named(own_model):
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        ended = serve("--config", own_model / "sordino.toml", "--listen", address)
        assert ended.returncode == 1 and f"cannot listen on {address}" in ended.stderr
