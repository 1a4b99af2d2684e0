"""Models that other tools exported: told, centroids built, served behind the defence, attacked.

The files and how they were made lie in tests/fixtures/onnx (make.py, models.json). What a graph does not tell (an
ensemble of trees does not say whether it answers with probabilities) is an error that asks, and is declared here.
"""

import http.client
import importlib.util
import json
import subprocess

import numpy as np
import onnxruntime
import pytest
from conftest import BINARY, PATIENCE, ROOT, Sordino

FOLDER = ROOT / "tests/fixtures/onnx"
MODELS = json.loads((FOLDER / "models.json").read_text())
PATIENT = 300

# What the graph does not tell, and what a user then writes.
DECLARED = {
    "catboost-zipmap": "probabilities",
    "lightgbm": "probabilities",
    "lightgbm-zipmap": "probabilities",
    "sklearn-forest": "probabilities",
    "sklearn-logistic-zipmap": "probabilities",
    "sklearn-scaled-logistic": "probabilities",
    "xgboost": "probabilities",
}
# Refused, and what the error says.
REFUSED = {
    "sklearn-boosting-columns": "is a matrix of floats; name one as score_output",
    "sklearn-words": "takes strings",
}
# Of other rows than these: test_onnx_types.py.
TYPED = {"sklearn-columns", "sklearn-forest-int64", "sklearn-scaled-int64", "torch-embedding-int64", "torch-linear-bool",
         "torch-mlp-bfloat16", "torch-mlp-half", "torch-mlp-int16", "torch-mlp-int32", "torch-mlp-uint8"}
SERVED = sorted(set(MODELS) - set(REFUSED) - TYPED)


def maker():
    spec = importlib.util.spec_from_file_location("make", FOLDER / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKE = maker()
FEATURES, LABELS = MAKE.rows()


def sordino(*arguments):
    return subprocess.run([BINARY, *map(str, arguments)], capture_output=True, text=True, timeout=PATIENT)


def declared(name):
    return ["--score-kind", DECLARED[name]] if name in DECLARED else []


def expected_labels(name, rows):
    """The argmax of the scores by ONNX Runtime, whatever form the model gives them."""
    session = onnxruntime.InferenceSession(str(FOLDER / f"{name}.onnx"), providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    rows = rows.astype(np.float64 if "double" in entry.type else np.float32)
    scores = session.run(None, {entry.name: rows})[-1]
    if isinstance(scores, list):
        scores = [[row[label] for label in sorted(row)] for row in scores]
    return np.asarray(scores).argmax(axis=1)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """The rows as a table, and the split whose members every model was trained on."""
    folder = tmp_path_factory.mktemp("rows")
    table, split = folder / "rows.csv", folder / "rows.split.json"
    lines = (",".join([str(label), *(f"{value:.3f}" for value in row)]) for row, label in zip(FEATURES, LABELS))
    table.write_text("\n".join(lines) + "\n")
    n_train = MAKE.N_TRAIN
    done = sordino("split", "--data", f"csv:{table}", "--train", n_train, "--test", len(LABELS) - n_train, "--out", split)
    assert done.returncode == 0, done.stderr
    dealt = json.loads(split.read_text())
    dealt["parts"]["train"] = list(range(n_train))
    dealt["parts"]["test"] = list(range(n_train, len(LABELS)))
    split.write_text(json.dumps(dealt))
    return f"csv:{table}", split


@pytest.fixture(scope="module", params=SERVED)
def built(request, rows, tmp_path_factory):
    """A model with its centroids."""
    name, (data, split) = request.param, rows
    centroids = tmp_path_factory.mktemp(name) / f"{name}.safetensors"
    done = sordino("centroids", "build", "--model", FOLDER / f"{name}.onnx", "--data", data, "--split", split, "--out",
                   centroids, "--class-fallback", "correct-rows", "--quiet", *declared(name))
    assert done.returncode == 0, done.stderr
    return name, centroids


def test_at_least_eight_models_of_four_tools_are_served():
    assert len(SERVED) >= 8 and len({MODELS[name]["tool"].split(" ")[0] for name in SERVED}) >= 4
    assert all(len((FOLDER / f"{name}.onnx").read_bytes()) == MODELS[name]["bytes"] < 32_768 for name in MODELS)


@pytest.mark.parametrize("name", sorted(DECLARED))
def test_what_a_graph_does_not_tell_is_asked(name):
    done = sordino("inspect", FOLDER / f"{name}.onnx")
    assert done.returncode == 1 and "declare score_kind" in done.stderr, done.stderr
    assert sordino("inspect", FOLDER / f"{name}.onnx", *declared(name)).returncode == 0


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_be_served_is_refused_in_words(name):
    # Declared, so that it is not the kind of scores that stops it.
    done = sordino("inspect", FOLDER / f"{name}.onnx", "--score-kind", "probabilities")
    assert done.returncode == 1 and REFUSED[name] in done.stderr and "panic" not in done.stderr, done.stderr


def test_it_is_served_behind_the_defence_with_its_own_labels(built, tmp_path):
    name, centroids = built
    kind = f'score_kind = "{DECLARED[name]}"\n' if name in DECLARED else ""
    config = tmp_path / "sordino.toml"
    config.write_text(f'[model]\npath = "{FOLDER / name}.onnx"\ncentroids = "{centroids}"\n{kind}')
    server = Sordino("--config", config)
    metadata = server.metadata()
    entry = metadata["inputs"][0]
    asked = FEATURES[140:160]
    body = {"inputs": [{"name": entry["name"], "shape": list(asked.shape), "datatype": entry["datatype"],
                        "data": asked.astype(float).ravel().tolist()}]}
    connection = http.client.HTTPConnection(server.address, timeout=PATIENCE)
    connection.request("POST", f"/v2/models/{server.name}/infer", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = json.loads(response.read())
    server.stop()
    assert response.status == 200, answer
    [output] = [one for one in answer["outputs"] if one["name"] == "probabilities"]
    p = np.asarray(output["data"]).reshape(len(asked), MAKE.N_CLASSES)
    assert np.allclose(p.sum(axis=1), 1, atol=1e-5)
    # The default defence keeps three classes of four, and every label.
    assert ((p > 0).sum(axis=1) <= 3).all()
    assert (p.argmax(axis=1) == expected_labels(name, asked)).all()


def test_it_is_attacked(built, rows, tmp_path):
    name, centroids = built
    data, split = rows
    report = tmp_path / "report.json"
    done = sordino("audit", "--model", FOLDER / f"{name}.onnx", "--centroids", centroids, "--data", data, "--split", split,
                   "--json", report, "--permutations", 20, "--bootstrap", 100, "--quiet", *declared(name))
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text())
    assert found["origin"]["pipeline_agrees"]["value"] is True
    systems = {system["name"]: system for system in found["findings"]["systems"]}
    assert {"undefended", "label-only", "reweight w=0.1 + top-3"} <= set(systems)
    undefended = systems["undefended"]["utility"]
    labels = expected_labels(name, FEATURES) == LABELS
    # Verdict rows are half of each side.
    assert abs(undefended["accuracy_members"] - labels[:150].mean()) < 0.12
    assert len(systems["undefended"]["attacks"]) > 20
    assert all(system["utility"]["label_agreement"]["value"] == 1 for system in systems.values())
