#!/usr/bin/env python3
"""Small well-formed files for every fuzz target, made anew by the program itself, so that they follow its formats.

    seeds.py SORDINO OUT

SORDINO is the program, built with --features lab; OUT/TARGET/ gets the seeds of each target. A model of two inputs and two classes is
trained on forty made-up rows. Only the standard library is used.
"""

import base64
import io
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent

# Four rows with the columns a (f32), b (i32) and label (text), as pyarrow 26 writes them without compression.
PARQUET = """UEFSMRUAFSwVLCwVCBUAFQYVBhwAAAACAAAACAEAAAA/AACgvwAAQEAAAABAFQAVLBUsLBUIFQAVBhUGHAAAAAIAAAAIAQEAAAACAAAAAwAAAAQAAAAVABU0
FTQsFQgVABUGFQYcAAAAAgAAAAgBAQAAAHgBAAAAeQEAAAB4AQAAAHkVBBlMNQAYBnNjaGVtYRUGABUIJQIYAWEAFQIlAhgBYgAVDCUCGAVsYWJlbCUATBwA
AAAWCBkcGTwmABwVCBklBgAZGAFhFQAWCBZSFlImCEkcFQAVABUCADwpBhkmAAgAAAAmABwVAhklBgAZGAFiFQAWCBZSFlImWkkcFQAVABUCADwpBhkmAAgA
AAAmABwVDBklBgAZGAVsYWJlbBUAFggWWhZaJqwBSRwVABUAFQIAPBYIGQYZJgAIAAAAFv4BFggmCBb+AQAoIHBhcnF1ZXQtY3BwLWFycm93IHZlcnNpb24g
MjYuMC4xGTwcAAAcAAAcAAAA9wAAAFBBUjE="""

RECIPE = """epochs = 20
batch_size = 8
learning_rate = 0.01
seed = 1
[network]
kind = "mlp"
hidden = [2]
"""


def table():
    """Forty rows of two classes."""
    draw = random.Random(1)
    rows = [(draw.gauss(6 * label - 3, 1), draw.gauss(3 - 6 * label, 1), label) for label in (0, 1) for _ in range(20)]
    return "x,y,label\n" + "".join(f"{x:.2f},{y:.2f},{label}\n" for x, y, label in rows)


def npy(kind, shape, values):
    """A NumPy array, version 1 of its format."""
    head = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
    head += " " * (-(len(head) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + values


def npz(arrays):
    """Arrays in an archive, not compressed."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, array in arrays.items():
            archive.writestr(zipfile.ZipInfo(name + ".npy"), array)
    return out.getvalue()


def arrays():
    """Seeds that need no program."""
    draw = random.Random(2)
    features = npy("<f4", (2, 3), struct.pack("<6f", *range(6)))
    labels = npy("<i8", (2,), struct.pack("<2q", 0, 1))
    share = -(-len(features) * 255 // (len(features) + len(labels)))
    images = struct.pack(">BBBBIII", 0, 0, 8, 3, 2, 2, 2) + bytes(8)
    yield "npy", "both", bytes([share]) + features + labels
    yield "npz", "both", npz({"x": features, "y": labels})
    yield "parquet", "columns", base64.b64decode(PARQUET)
    yield "cifar10", "two", b"".join(bytes([label]) + draw.randbytes(3072) for label in (3, 9))
    yield "idx", "images", images
    yield "idx", "labels", struct.pack(">BBBBI", 0, 0, 8, 1, 2) + b"\x00\x01"
    yield "predictions", "logits", b"member,label,logit_0,logit_1\n1,0,2.5,-1\n0,1,0.25,0.5\n"
    for path in sorted((ROOT / "tests/golden").glob("*.request")):
        _, _, body = path.read_bytes().replace(b"\r\n", b"\n").partition(b"\n\n")
        for how in (0, 3):
            yield "oip_infer", f"{path.stem}-{how}", bytes([how]) + body
        yield "predict", path.stem, body
    answer = (b'{"model_name":"m","outputs":[{"name":"logits","datatype":"FP32","shape":[1,2],"data":[0.5,-1]}]}')
    yield "upstream_oip", "numbers", answer
    yield "upstream_metadata", "oip", (b'{"name":"m","versions":["1"],"inputs":[{"name":"x","datatype":"FP32","shape":[-1,2]}],'
                                       b'"outputs":[{"name":"logits","datatype":"FP32","shape":[-1,2]}],"extensions":["binary_tensor_data"]}')
    for target in ("upstream_tfserving", "upstream_kserve_v1"):
        yield target, "rows", b'{"predictions":[[0.5,-1.0]]}'


def made(sordino, work):
    """Seeds that the program writes: rows, split, model, weights, centroids, a bank."""

    def call(*arguments):
        done = subprocess.run([sordino, *map(str, arguments)], capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"sordino {arguments[0]}: {done.stderr}")

    rows, split, recipe, model = (work / name for name in ("rows.csv", "rows.split.json", "recipe.toml", "model.onnx"))
    rows.write_text(table(), encoding="utf-8")
    recipe.write_text(RECIPE, encoding="utf-8")
    data = f"csv:{rows},label=label"
    call("split", "--data", data, "--train", 20, "--calibration", 5, "--test", 15, "--out", split)
    call("train", "--data", data, "--split", split, "--recipe", recipe, "--out", model)
    centroids = work / "model.centroids.safetensors"
    call("centroids", "build", "--model", model, "--data", data, "--split", split, "--class-fallback", "correct-rows", "--out", centroids)
    call("shadows", "plan", "--data", data, "--split", split, "--recipe", recipe, "--balanced", 2, "--out", work / "bank")
    yield "table", "rows", rows
    yield "split", "rows", split
    yield "recipe", "mlp", recipe
    yield "model_load", "mlp", model
    yield "model_facts", "mlp", model
    yield "weights", "mlp", work / "model.weights.safetensors"
    yield "centroids", "mlp", centroids
    yield "bank_plan", "two", work / "bank/plan.json"
    yield "inclusion", "two", work / "bank/inclusion.safetensors"
    yield "settings", "all", ROOT / "deploy/sordino.toml"
    for path in sorted((ROOT / "recipes").glob("*/*.toml")):
        yield "recipe", path.stem, path
    for path in sorted((ROOT / "tests/fixtures/onnx").glob("*.onnx")):
        if path.stat().st_size < 8192:
            yield "model_load", path.stem, path
            yield "model_facts", path.stem, path


def main(sordino, out):
    def place(target, name):
        folder = pathlib.Path(out) / target
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name

    for target, name, bytes_ in arrays():
        place(target, name).write_bytes(bytes_)
    with tempfile.TemporaryDirectory() as work:
        for target, name, path in made(pathlib.Path(sordino).resolve(), pathlib.Path(work)):
            shutil.copyfile(path, place(target, name))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
