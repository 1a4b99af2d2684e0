"""Models whose inputs are no floats of single precision, asked by Triton's own client in binary form.

The files are those of tests/fixtures/onnx; whole numbers are drawn here as make.py draws them. Labels must be those of
ONNX Runtime on the same file, which runs in the file's own precision.
"""

import http.client
import json

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
import tritonclient.http as triton
from conftest import PATIENCE, Sordino
from test_onnx_exports import FOLDER, MAKE

FLOATS, _ = MAKE.rows()
WHOLE, _ = MAKE.whole_rows()
ASKED = slice(140, 172)

# Name, rows as the client has them, element type on the wire, what the user declares.
TYPED = {
    "torch-mlp-uint8": (WHOLE.astype(np.uint8), "UINT8", None),
    "torch-mlp-int16": (WHOLE.astype(np.int16), "INT16", None),
    "torch-mlp-int32": (WHOLE.astype(np.int32), "INT32", None),
    "torch-embedding-int64": (WHOLE, "INT64", None),
    "torch-linear-bool": (WHOLE > 128, "BOOL", None),
    "torch-mlp-half": (FLOATS.astype(np.float16), "FP16", None),
    "torch-mlp-bfloat16": (FLOATS.astype(ml_dtypes.bfloat16), "BF16", None),
    "sklearn-forest-int64": (WHOLE, "INT64", "probabilities"),
    "sklearn-scaled-int64": (WHOLE, "INT64", "probabilities"),
}


@pytest.fixture()
def serve(tmp_path):
    servers = []

    def start(name, kind=None):
        declared = f'score_kind = "{kind}"\n' if kind else ""
        config = tmp_path / "sordino.toml"
        config.write_text(f'[model]\npath = "{FOLDER / name}.onnx"\n{declared}[defence]\nmethod = "label-only"\n')
        servers.append(Sordino("--config", config))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def by_onnxruntime(name, feeds):
    session = onnxruntime.InferenceSession(str(FOLDER / f"{name}.onnx"), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds(session))[-1]).argmax(axis=1)


def by_sordino(server, inputs):
    client = triton.InferenceServerClient(server.address)
    tensors = []
    for name, rows, datatype in inputs:
        tensors.append(triton.InferInput(name, rows.shape, datatype))
        tensors[-1].set_data_from_numpy(rows)
    answer = client.infer(server.name, tensors, outputs=[triton.InferRequestedOutput("probabilities")])
    return answer.as_numpy("probabilities").argmax(axis=1)


@pytest.mark.parametrize("name", sorted(TYPED))
def test_labels_are_those_of_onnxruntime(name, serve):
    rows, datatype, kind = TYPED[name]
    rows = rows[ASKED]
    server = serve(name, kind)
    [entry] = server.metadata()["inputs"]
    assert entry["datatype"] == datatype and entry["shape"] == [-1, MAKE.N_FEATURES]
    labels = by_sordino(server, [(entry["name"], rows, datatype)])
    if datatype == "BF16":
        # ONNX Runtime has no such operators on a CPU; the half-precision file has the same weights.
        expected = by_onnxruntime("torch-mlp-half", lambda session: {session.get_inputs()[0].name: rows.astype(np.float16)})
        assert (labels == expected).mean() > 0.9
    else:
        expected = by_onnxruntime(name, lambda session: {session.get_inputs()[0].name: rows})
        assert (labels == expected).all()


def test_an_input_for_each_column(serve):
    name = "sklearn-columns"
    server = serve(name, "probabilities")
    entries = server.metadata()["inputs"]
    assert {entry["datatype"] for entry in entries} == {"FP32", "INT64"} and len(entries) == MAKE.N_FEATURES
    columns = {entry["name"]: WHOLE[ASKED, index : index + 1].astype(np.float32 if entry["datatype"] == "FP32" else np.int64)
               for index, entry in enumerate(sorted(entries, key=lambda entry: entry["name"]))}
    inputs = [(entry["name"], columns[entry["name"]], entry["datatype"]) for entry in entries]
    assert (by_sordino(server, inputs) == by_onnxruntime(name, lambda _: columns)).all()


@pytest.mark.parametrize("name,datatype", [("torch-mlp-half", "FP16"), ("torch-mlp-bfloat16", "BF16")])
def test_half_precision_in_json_is_refused_in_words_but_for_predict(name, datatype, serve):
    server = serve(name)
    rows = FLOATS[ASKED]

    def post(path, body):
        connection = http.client.HTTPConnection(server.address, timeout=PATIENCE)
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())

    tensor = {"name": "rows", "shape": list(rows.shape), "datatype": datatype, "data": rows.astype(float).ravel().tolist()}
    status, answer = post(f"/v2/models/{server.name}/infer", {"inputs": [tensor]})
    assert status == 400 and "binary" in answer["error"] and datatype in answer["error"]
    # TensorFlow Serving takes numbers for them.
    status, answer = post(f"/v1/models/{server.name}:predict", {"instances": rows.astype(float).tolist()})
    assert status == 200, answer
    expected = by_onnxruntime("torch-mlp-half", lambda session: {"rows": rows.astype(np.float16)})
    assert (np.asarray(answer["predictions"]).argmax(axis=1) == expected).mean() > 0.9
    status, answer = post(f"/v1/models/{server.name}:predict", {"instances": [[1e39] * rows.shape[1]]})
    assert status == 400 and "finite" in answer["error"]
