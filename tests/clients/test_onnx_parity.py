"""The exported graph against the ONNX checker and ONNX Runtime.

Trains each network for one epoch on made-up rows with the binary (built with the feature `lab`), then holds the
exported model against `onnx.checker` (full check) and its answers in ONNX Runtime against the logits that the
training network itself wrote, on 256 rows and in batches of 1, 3 and 256.
"""

import subprocess

import numpy as np
import onnx
import onnxruntime
import pytest
from safetensors.numpy import load_file

from conftest import BINARY

TOLERANCE = 1e-4
N_ROWS = 256


def write_idx(path, values):
    header = bytes([0, 0, 8, values.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


def write_images(folder, rng):
    for part, n_rows in [("train", 200), ("t10k", 300)]:
        labels = rng.integers(0, 10, n_rows)
        write_idx(folder / f"{part}-labels-idx1-ubyte", labels)
        write_idx(folder / f"{part}-images-idx3-ubyte", rng.integers(0, 256, (n_rows, 28, 28)))


def write_table(path, rng):
    rows = rng.integers(0, 2, (500, 40))
    labels = rng.integers(1, 31, 500)
    path.write_text("".join(f'"{label}",{",".join(map(str, row))}\n' for label, row in zip(labels, rows)))


SIZES = ["--train-rows", "200", "--test-rows", str(N_ROWS), "--epochs", "1"]


def train(folder, network, source):
    model, parity = folder / f"{network}.onnx", folder / f"{network}.safetensors"
    command = [BINARY, "train", "--data", source, "--network", network, "--out", model, "--parity-out", parity, *SIZES]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"`train` needs a binary built with --features lab; it said:\n{done.stderr}"
    return model, load_file(parity)


def images(folder, rng):
    write_images(folder, rng)
    return f"idx:{folder}"


def table(folder, rng):
    write_table(folder / "table.csv", rng)
    return f"csv:{folder / 'table.csv'}"


@pytest.fixture(scope="module", params=[("cnn", images), ("mlp", table)], ids=["cnn", "mlp"])
def exported(request, tmp_path_factory):
    network, make = request.param
    folder = tmp_path_factory.mktemp(network)
    return train(folder, network, make(folder, np.random.default_rng(1)))


def test_the_exported_graph_passes_the_checker_with_a_free_batch_and_ends_in_logits(exported):
    model = onnx.load(exported[0])
    onnx.checker.check_model(model, full_check=True)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N", "the batch is not dynamic"
    assert model.graph.node[-1].op_type == "Gemm" and model.graph.output[0].name == "logits"


@pytest.mark.parametrize("size", [1, 3, N_ROWS])
def test_onnx_runtime_gives_the_logits_of_the_training_network(exported, size):
    session = onnxruntime.InferenceSession(str(exported[0]), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    rows, expected = exported[1]["input"], exported[1]["logits"]
    assert rows.shape[0] == N_ROWS == expected.shape[0]
    got = [session.run(["logits"], {name: rows[start : start + size]})[0] for start in range(0, N_ROWS, size)]
    worst = float(np.abs(np.concatenate(got) - expected).max())
    assert worst <= TOLERANCE, f"a logit is off by {worst}, expected at most {TOLERANCE}"
