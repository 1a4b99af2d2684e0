"""curl, as people type it: JSON, a raw row, compressed bodies, `Expect: 100-continue`."""

import gzip
import json
import shutil
import subprocess

import numpy as np
import pytest

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")


def curl(*arguments, body=None):
    ended = subprocess.run(["curl", "-sS", "--fail", *arguments], input=body, capture_output=True, timeout=30)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def request(served, rows):
    tensor = {"name": served.input, "shape": list(rows.shape), "datatype": "FP32", "data": rows.ravel().tolist()}
    return json.dumps({"inputs": [tensor]}).encode()


def test_json_plain_and_compressed(bundled):
    rows = bundled.rows(40)
    url = f"{bundled.server.url}/v2/models/{bundled.name}/infer"
    plain = json.loads(curl("--data-binary", "@-", url, body=request(bundled, rows)))
    assert plain["outputs"][0]["shape"] == [40, bundled.n_classes]
    packed = gzip.compress(request(bundled, rows))
    both = curl("--compressed", "-H", "Content-Encoding: gzip", "--data-binary", "@-", url, body=packed)
    assert json.loads(both) == plain
    waited = curl("-H", "Expect: 100-continue", "--data-binary", "@-", url, body=request(bundled, rows))
    assert json.loads(waited) == plain
    assert json.loads(curl("--http2-prior-knowledge", "--data-binary", "@-", url, body=request(bundled, rows))) == plain


def test_a_raw_row(bundled, tmp_path):
    row = bundled.rows(1)
    url = f"{bundled.server.url}/v2/models/{bundled.name}/infer"
    (tmp_path / "row").write_bytes(row.astype("<f4").tobytes())
    head = ["-H", "Inference-Header-Content-Length: 0", "-H", "Content-Type: application/octet-stream"]
    answer = curl(*head, "-D", str(tmp_path / "head"), "--data-binary", f"@{tmp_path / 'row'}", url)
    head = dict(line.split(": ", 1) for line in (tmp_path / "head").read_text().strip().splitlines()[1:])
    length = int({name.lower(): value for name, value in head.items()}["inference-header-content-length"])
    sizes = [output["parameters"]["binary_data_size"] for output in json.loads(answer[:length])["outputs"]]
    assert sum(sizes) == len(answer) - length
    plain = json.loads(curl("--data-binary", "@-", url, body=request(bundled, row)))
    expected = np.concatenate([output["data"] for output in plain["outputs"]]).astype("<f4")
    assert (np.frombuffer(answer[length:], "<f4") == expected).all()


def test_predict(bundled):
    rows = bundled.rows(2)
    base = f"{bundled.server.url}/v1/models/{bundled.name}"
    body = json.dumps({"instances": rows.tolist()}).encode()
    predictions = json.loads(curl("--data-binary", "@-", f"{base}:predict", body=body))["predictions"]
    assert np.shape(predictions) == (2, bundled.n_classes)
    status = json.loads(curl(base))
    assert status["model_version_status"][0]["state"] == "AVAILABLE" and status["ready"] is True
    assert "signature_def" in json.loads(curl(f"{base}/metadata"))["metadata"]
