"""Tools too heavy for every run, each where an environment variable names it: Triton's perf_analyzer, MLServer's `infer`."""

import json
import os
import subprocess

import pytest
from conftest import Served, Sordino

PERF_ANALYZER = os.environ.get("SORDINO_PERF_ANALYZER")
MLSERVER = os.environ.get("SORDINO_MLSERVER")


@pytest.mark.skipif(not PERF_ANALYZER, reason="SORDINO_PERF_ANALYZER names no perf_analyzer")
@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("more", [[], ["-b", "4"], ["--streaming"]])
def test_perf_analyzer(protocol, more, tmp_path):
    if more == ["--streaming"] and protocol == "http":
        pytest.skip("streams are gRPC's")
    server = Sordino("--statistics", cwd=tmp_path)
    table = tmp_path / "table.csv"
    command = [PERF_ANALYZER, "-m", server.name, "-u", server.address, "-i", protocol, "--concurrency-range", "2"]
    # Its random numbers are random bits, NaN among them, which are refused.
    command += ["--input-data", "zero", "--measurement-interval", "1000", "--stability-percentage", "999", "-f", str(table), *more]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    head, row = table.read_text().splitlines()[:2]
    assert float(row.split(",")[head.split(",").index("Inferences/Second")]) > 0
    assert server.stop() == 0


@pytest.mark.skipif(not MLSERVER, reason="SORDINO_MLSERVER names no mlserver")
def test_mlserver_infer(tmp_path):
    server = Sordino(cwd=tmp_path)
    served = Served(server)
    rows = served.rows(5)
    tensor = [{"name": served.input, "shape": [1, *served.row], "datatype": "FP32", "data": row.ravel().tolist()} for row in rows]
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({"inputs": [one]}) + "\n" for one in tensor))
    command = [MLSERVER, "infer", "-u", server.address, "-m", served.name, "-i", str(source), "-o", str(target), "--workers", "2"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    answers = [json.loads(line) for line in target.read_text().splitlines()]
    assert len(answers) == 5
    assert all(answer["outputs"][0]["shape"] == [1, served.n_classes] for answer in answers)
    assert server.stop() == 0
