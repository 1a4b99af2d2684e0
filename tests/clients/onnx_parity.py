"""The exported graph against the ONNX checker and ONNX Runtime.

    python onnx_parity.py target/release/sordino

Trains the two networks for one epoch on made-up rows with the given binary (built with the feature `lab`),
then holds each exported model against `onnx.checker` (full check) and its answers in ONNX Runtime against
the logits that the training network itself wrote, on 256 rows and in batches of 1, 3 and 256.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from safetensors.numpy import load_file

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


def train(binary, folder, name, source, *more):
    model, parity = folder / f"{name}.onnx", folder / f"{name}.safetensors"
    sizes = ["--train-rows", "200", "--test-rows", str(N_ROWS)]
    command = [binary, "train", "--data", source, "--out", model, "--parity-out", parity, "--epochs", "1", *sizes]
    subprocess.run([*command, *more], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return model, load_file(parity)


def check(model_path, reference):
    model = onnx.load(model_path)
    onnx.checker.check_model(model, full_check=True)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N", "the batch is not dynamic"
    assert model.graph.node[-1].op_type == "Gemm" and model.graph.output[0].name == "logits"
    session = onnxruntime.InferenceSession(str(model_path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    rows, expected = reference["input"], reference["logits"]
    assert rows.shape[0] == N_ROWS == expected.shape[0]
    worst = 0.0
    for size in (1, 3, N_ROWS):
        for start in range(0, N_ROWS, size):
            (got,) = session.run(["logits"], {name: rows[start : start + size]})
            worst = max(worst, float(np.abs(got - expected[start : start + size]).max()))
    assert worst <= TOLERANCE, f"a logit is off by {worst}, expected at most {TOLERANCE}"
    return worst


def main():
    binary = str(Path(sys.argv[1]).resolve())
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder, rng)
        write_table(folder / "table.csv", rng)
        runs = {
            "cnn": (f"idx:{folder}", "--network", "cnn"),
            "mlp": (f"csv:{folder / 'table.csv'}", "--network", "mlp"),
        }
        for network, arguments in runs.items():
            worst = check(*train(binary, folder, network, *arguments))
            print(f"{network}: onnx.checker passed, ONNX Runtime within {worst:.1e} on {N_ROWS} rows")


if __name__ == "__main__":
    main()
