"""The bundled files seen from outside, and the served answers recomputed with other people's tools.

ONNX Runtime runs the model and numpy the defence (the paper's reweighting with w = 0.1, then the three largest
probabilities); the server must say the same. That holds only if the exported graph, tract, the centroid file
and the defence all mean what they say.
"""

import hashlib
import json

import numpy as np
import onnx
import onnxruntime
import pytest
import tritonclient.http as triton
from safetensors import safe_open

from conftest import ROOT

MODEL = ROOT / "models/fashion_cnn.onnx"
CENTROIDS = ROOT / "centroids/fashion_cnn.safetensors"
N_ROWS = 256


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(3)
    noise = rng.random((N_ROWS, 1, 28, 28), dtype=np.float32)
    # Half of the rows are smooth, so that more than one class is predicted.
    smooth = np.cumsum(noise, axis=3)[: N_ROWS // 2]
    noise[: N_ROWS // 2] = smooth / smooth.max(axis=(2, 3), keepdims=True)
    return noise


def logits(rows):
    session = onnxruntime.InferenceSession(str(MODEL), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {session.get_inputs()[0].name: rows})[0]


def test_the_model_passes_the_checker_and_takes_any_batch(rows):
    model = onnx.load(MODEL)
    onnx.checker.check_model(model, full_check=True)
    batch = model.graph.input[0].type.tensor_type.shape.dim[0]
    assert batch.dim_param or not batch.HasField("dim_value"), "the batch size is fixed"
    alone = np.concatenate([logits(rows[i : i + 1]) for i in range(8)])
    assert np.allclose(alone, logits(rows[:8]), atol=1e-4)


def test_the_centroid_file_opens_and_belongs_to_the_model():
    with safe_open(CENTROIDS, "numpy") as file:
        metadata = json.loads(file.metadata()["sordino"])
        centroids = file.get_tensor("centroids")
    assert metadata["model_sha256"] == hashlib.sha256(MODEL.read_bytes()).hexdigest()
    n_classes = len(metadata["labels"])
    assert centroids.shape == (n_classes, n_classes)
    assert (centroids.argmax(axis=1) == np.arange(n_classes)).all()


def defended(z, centroids):
    """R4 with w = 0.1, softmax, R5 with k = 3."""
    z = z.astype(np.float64)
    label = z.argmax(axis=1)
    target = centroids[label].astype(np.float64)
    cosine = (z * target).sum(axis=1) / (np.linalg.norm(z, axis=1) * np.linalg.norm(target, axis=1))
    share = np.clip(0.1 * cosine, 0, 1)[:, None]
    blended = share * z + (1 - share) * target
    p = np.exp(blended - blended.max(axis=1, keepdims=True))
    kept = np.argsort(-blended, axis=1, kind="stable")[:, :3]
    mask = np.zeros_like(p)
    np.put_along_axis(mask, kept, 1, axis=1)
    p *= mask
    return p / p.sum(axis=1, keepdims=True), label


def test_served_answers_are_the_defended_scores_of_onnx_runtime(bundled, rows):
    with safe_open(CENTROIDS, "numpy") as file:
        expected, label = defended(logits(rows), file.get_tensor("centroids"))
    tensor = triton.InferInput(bundled.input, list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows)
    with triton.InferenceServerClient(bundled.server.address) as client:
        result = client.infer(bundled.name, [tensor])
    served = result.as_numpy("probabilities")
    assert np.abs(served - expected).max() < 1e-4
    assert (served.argmax(axis=1) == label).all() and len(set(label)) > 1
    assert (np.count_nonzero(served, axis=1) <= 3).all()
    log = np.log(np.maximum(served.astype(np.float64), 1e-12))
    assert np.abs(result.as_numpy("logits") - log).max() < 1e-4
