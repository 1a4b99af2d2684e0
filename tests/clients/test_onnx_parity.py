"""The exported graph against the ONNX checker and ONNX Runtime.

Trains every network that `train` knows for one short epoch on made-up rows with the binary (built with the feature
`lab`), then holds the exported model against `onnx.checker` (full check) and its answers in ONNX Runtime against the
logits that the training network itself wrote, in batches of several sizes: as exported by default, and with batch
normalisation folded and the penultimate features as a second output. (`train` itself holds the graph in tract against
the same logits before it writes the model.) One network is held so on real rows too, and a bank joined into one graph,
averaged and stacked, against the answers of its members.
"""

import json
import pathlib
import re
import struct
import subprocess
import zlib

import numpy as np
import onnx
import onnxruntime
import pytest
from safetensors.numpy import load_file

from conftest import BINARY

TOLERANCE = 1e-4
# Networks that answer 256 rows in a moment; the others get fewer.
SMALL = ("cnn", "mlp", "fcn", "ml-leaks", "convnet")


def write_images(folder, rng, n_rows):
    """Images as a folder of classes, without a library for it: PNG with stored rows."""
    for row in range(n_rows):
        path = folder / f"class_{row % 10}" / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)))


def png(image):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width, _ = image.shape
    lines = b"".join(b"\0" + line.tobytes() for line in image)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def write_table(path, rng):
    rows = rng.integers(0, 2, (500, 40))
    labels = rng.integers(1, 31, 500)
    path.write_text("".join(f'"{label}",{",".join(map(str, row))}\n' for label, row in zip(labels, rows)))


# Their papers' rows are tables; all others take images of 32×32 in three channels.
TABLES = ("mlp", "fcn")
VARIANTS = {"plain": [], "folded with features": ["--fold-batch-norm", "--with-features"]}


def networks():
    """The networks that `train` knows, by its help."""
    shown = subprocess.run([BINARY, "train", "--help"], capture_output=True, text=True, check=True).stdout
    option = shown[shown.index("--network ") :]
    listed = re.match(r".*?Possible values:\n((?:\s+- [\w-]+:[^\n]*\n(?:\s{12,}[^\n]*\n)*)+)", option, re.DOTALL)
    return re.findall(r"- ([\w-]+):", listed.group(1))


def train(folder, network, flags):
    n_rows = 256 if network in SMALL else 24
    rng = np.random.default_rng(1)
    if network in TABLES:
        write_table(folder / "table.csv", rng)
        source = f"csv:{folder / 'table.csv'}"
    else:
        write_images(folder / "rows", rng, 24 + n_rows)
        source = f"folder:{folder / 'rows'}"
    model, parity = folder / "model.onnx", folder / "parity.safetensors"
    # By class: of twenty rows drawn freely some class would have none.
    split = folder / "rows.split.json"
    n_train = "60" if network in TABLES else "20"
    drawn = [BINARY, "split", "--data", source, "--train", n_train, "--test", str(n_rows), "--stratified", "--out", split]
    subprocess.run(drawn, check=True, capture_output=True)
    sizes = ["--split", split, "--epochs", "1", "--batch-size", "10"]
    command = [BINARY, "train", "--data", source, "--network", network, "--out", model, "--parity-out", parity]
    done = subprocess.run([*command, *sizes, *flags], capture_output=True, text=True)
    assert done.returncode == 0, f"`train` needs a binary built with --features lab; it said:\n{done.stderr}"
    parity = load_file(parity)
    assert parity["input"].shape[0] == n_rows == parity["logits"].shape[0]
    return model, parity


@pytest.fixture(scope="module", params=[(network, variant) for network in networks() for variant in VARIANTS], ids="-".join)
def exported(request, tmp_path_factory):
    network, variant = request.param
    folder = tmp_path_factory.mktemp(network)
    return variant, *train(folder, network, VARIANTS[variant])


def test_every_network_that_the_project_has_is_known():
    assert {"cnn", "mlp", "fcn", "densenet", "resnet18", "resnet9", "ml-leaks", "convnet"} <= set(networks())


def test_the_exported_graph_passes_the_checker_with_a_free_batch_and_ends_in_logits(exported):
    variant, path, parity = exported
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == 17
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N", "the batch is not dynamic"
    assert model.graph.output[0].name == "logits"
    [last] = [node for node in model.graph.node if "logits" in node.output]
    assert last.op_type == "Gemm"
    assert not any(node.op_type in ("Softmax", "Dropout") for node in model.graph.node)
    # What goes elsewhere too cannot be folded.
    uses = [name for node in model.graph.node for name in node.input]
    made = {output for node in model.graph.node if node.op_type == "Conv" for output in node.output}
    convolutions = {output for output in made if uses.count(output) == 1}
    unfolded = [node for node in model.graph.node if node.op_type == "BatchNormalization" and node.input[0] in convolutions]
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if variant == "plain":
        assert [output.name for output in model.graph.output] == ["logits"]
    else:
        assert not unfolded
        assert [output.name for output in model.graph.output] == ["logits", "penultimate_features"]
        assert metadata["sordino.score_output"] == "logits"


@pytest.mark.parametrize("size", [1, 3, 256])
def test_onnx_runtime_gives_the_logits_of_the_training_network(exported, size):
    _, path, parity = exported
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    rows, expected = parity["input"], parity["logits"]
    got = [session.run(["logits"], {name: rows[start : start + size]})[0] for start in range(0, len(rows), size)]
    worst = float(np.abs(np.concatenate(got) - expected).max())
    tolerance = TOLERANCE * max(1.0, float(np.abs(expected).max()))
    assert worst <= tolerance, f"a logit is off by {worst}, expected at most {tolerance}"


FASHION_MNIST = pathlib.Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.skipif(not FASHION_MNIST.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
@pytest.mark.parametrize("variant", VARIANTS)
def test_onnx_runtime_gives_the_logits_of_the_training_network_for_real_rows(tmp_path, variant):
    model, parity = tmp_path / "model.onnx", tmp_path / "parity.safetensors"
    sizes = ["--train-rows", "512", "--test-rows", "256", "--epochs", "1"]
    command = [BINARY, "train", "--data", "fashion-mnist", "--network", "cnn", "--channels", "8,16", "--hidden", "32"]
    done = subprocess.run([*command, *sizes, "--out", model, "--parity-out", parity, *VARIANTS[variant]],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    parity = load_file(parity)
    rows, expected = parity["input"], parity["logits"]
    assert rows.shape == (256, 1, 28, 28) and rows.max() == 1.0, "pixels of images, divided by 255"
    assert len(set(expected.argmax(1))) > 3, "rows that the network tells apart"
    worst = float(np.abs(runtime(model, rows, "logits") - expected).max())
    assert worst <= TOLERANCE * max(1.0, float(np.abs(expected).max())), worst


def runtime(path, rows, output):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run([output], {session.get_inputs()[0].name: rows})[0]


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    """Three models of a bank, and rows of its table."""
    folder = tmp_path_factory.mktemp("bank")
    rng = np.random.default_rng(2)
    labels = np.arange(300) % 3
    rows = (rng.normal(size=(300, 8)) + np.eye(8)[labels]).round(4).astype(np.float32)
    lines = (f"{label},{','.join(map(str, row))}\n" for label, row in zip(labels, rows))
    (folder / "table.csv").write_text("label,a,b,c,d,e,f,g,h\n" + "".join(lines))
    (folder / "r.toml").write_text('epochs = 5\nbatch_size = 16\nlearning_rate = 0.01\n[network]\nkind = "mlp"\nhidden = [12]\n')
    sordino(folder, "split --data csv:table.csv --train 160 --validation 60 --test 80 --out s.json")
    sordino(folder, "ensemble train --data csv:table.csv --split s.json --recipe r.toml --whole 3 --out bank")
    return folder, rows


def sordino(folder, words):
    done = subprocess.run([BINARY, *words.split()], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def log_softmax(logits):
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


@pytest.mark.parametrize("combine", ["probabilities", "logits", "stack"])
def test_onnx_runtime_gives_what_the_members_of_a_joined_graph_say_together(bank, combine):
    folder, rows = bank
    sordino(folder, f"ensemble join bank --data csv:table.csv --combine {combine} --out {combine}.onnx")
    path = folder / f"{combine}.onnx"
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    output = model.graph.output[0].name
    got = runtime(path, rows, output)
    members = [runtime(folder / f"bank/model-{member:05}.onnx", rows, "logits").astype(np.float64) for member in range(3)]
    if combine == "stack":
        # Its layer is the one of the graph: a matrix over the logits of all members, side by side.
        arrays = [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
        [weight] = [array for array in arrays if array.shape in ((9, 3), (3, 9))]
        weight = weight if weight.shape == (9, 3) else weight.T
        biases = [array for array in arrays if array.shape == (3,)]
        mixed = np.concatenate(members, 1) @ weight
        expected = min((mixed + bias for bias in biases), key=lambda answer: np.abs(answer - got).max())
        split = json.loads((folder / "stack.split.json").read_text())
        assert len(split["parts"]["train"]) == 220 and not split["parts"]["validation"]
    elif combine == "logits":
        expected = np.mean(members, 0)
    else:
        expected = np.log(np.mean([np.exp(log_softmax(logits)) for logits in members], 0))
    assert len(set(got.argmax(1))) == 3
    assert np.abs(got - expected).max() <= TOLERANCE * max(1.0, np.abs(expected).max())
