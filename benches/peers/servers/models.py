"""Writes what all peers share into a folder: three ONNX models with random weights, rows for their centroids, and the
very bytes of the requests. Needs numpy, onnx and onnxruntime.

    models.py FOLDER

`mlp`: 64-128-10. `cnn32`: two small convolutions on 3x32x32. `heavy`: wide convolutions on 3x32x32, some 10 ms a row.
The last bias is set so that every class is predicted about as often: the centroids want rows of each.
"""

import json
import pathlib
import sys

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

N_CLASSES = 10
N_REQUESTS = 8
SHAPES = {"mlp": [64], "cnn32": [3, 32, 32], "heavy": [3, 32, 32]}


class Graph:
    def __init__(self, rng):
        self.rng, self.nodes, self.weights, self.last = rng, [], [], "input"

    def weight(self, shape):
        name = f"w{len(self.weights)}"
        fan_in = np.prod(shape[1:])
        values = self.rng.normal(size=shape, scale=np.sqrt(2 / fan_in)).astype("f")
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def node(self, kind, inputs, out=None, **attributes):
        name = out or f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        self.last = name

    def conv(self, n_in, n_out, stride):
        self.node("Conv", [self.last, self.weight((n_out, n_in, 3, 3))], pads=[1] * 4, strides=[stride] * 2)
        self.node("Relu", [self.last])

    def dense(self, n_in, n_out, bias, out=None):
        name = f"b{len(self.weights)}"
        weight = self.weight((n_out, n_in))
        self.weights.append(numpy_helper.from_array(bias, name))
        self.node("Gemm", [self.last, weight, name], out, transB=1)


def build(kind, bias):
    graph = Graph(np.random.default_rng(11))
    if kind == "mlp":
        graph.dense(64, 128, np.zeros(128, "f"))
        graph.node("Relu", [graph.last])
        width = 128
    elif kind == "cnn32":
        graph.conv(3, 8, 2)
        graph.conv(8, 16, 2)
        graph.node("Flatten", [graph.last])
        width = 16 * 8 * 8
    else:
        graph.conv(3, 96, 1)
        graph.conv(96, 96, 1)
        graph.conv(96, 96, 1)
        graph.conv(96, 96, 2)
        graph.node("GlobalAveragePool", [graph.last])
        graph.node("Flatten", [graph.last])
        width = 96
    graph.dense(width, N_CLASSES, bias, out="output")
    value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape])
    made = helper.make_graph(
        graph.nodes, "clf", [value("input", SHAPES[kind])], [value("output", [N_CLASSES])], graph.weights
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def answers(model, rows):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(["output"], {"input": row[None]})[0] for row in rows])


def write_requests(folder, kind, rows):
    shape = [1, *SHAPES[kind]]
    for number, row in enumerate(rows):
        values = ",".join(np.format_float_positional(v, unique=True, trim="0") for v in row.ravel())
        tensor = {"name": "input", "shape": shape, "datatype": "FP32"}
        head = json.dumps({"id": "42", "inputs": [{**tensor, "data": []}], "outputs": [{"name": "output"}]})
        (folder / f"{kind}-{number}.json").write_text(head.replace('"data": []', f'"data": [{values}]'))
        raw = row.astype("<f4").tobytes()
        tensor["parameters"] = {"binary_data_size": len(raw)}
        outputs = [{"name": "output", "parameters": {"binary_data": True}}]
        header = json.dumps({"id": "42", "inputs": [tensor], "outputs": outputs}).encode()
        (folder / f"{kind}-{number}.bin").write_bytes(header + raw)
    return len(header)


def write_answers(folder, kind, logits):
    """What the bare echo and the backend of the hops say: a real answer, whatever was asked. It holds no id, so that a
    hop that writes calls of its own takes it too."""
    output = {"name": "output", "datatype": "FP32", "shape": [1, N_CLASSES]}
    answer = {"model_name": "clf", "model_version": "1"}
    data = [float(np.format_float_positional(v, unique=True)) for v in logits]
    (folder / f"{kind}-answer.json").write_text(json.dumps({**answer, "outputs": [{**output, "data": data}]}))
    raw = logits.astype("<f4").tobytes()
    header = json.dumps({**answer, "outputs": [{**output, "parameters": {"binary_data_size": len(raw)}}]}).encode()
    (folder / f"{kind}-answer.bin").write_bytes(header + raw)
    tensors = lambda name, shape: [{"name": name, "datatype": "FP32", "shape": [-1, *shape]}]
    metadata = {"name": "clf", "versions": ["1"], "platform": "onnxruntime_onnx", "ready": True, "live": True}
    metadata |= {"inputs": tensors("input", SHAPES[kind]), "outputs": tensors("output", [N_CLASSES])}
    (folder / f"{kind}-metadata.json").write_text(json.dumps({**metadata, "extensions": ["binary_tensor_data"]}))
    return len(header)


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    about = {}
    for kind, shape in SHAPES.items():
        rows = np.random.default_rng(5).random((200 if kind == "heavy" else 2000, *shape), dtype="f")
        bias = -answers(build(kind, np.zeros(N_CLASSES, "f")), rows).mean(0)
        model = build(kind, bias.astype("f"))
        (folder / f"{kind}.onnx").write_bytes(model)
        logits = answers(model, rows)
        np.savez(folder / f"{kind}-rows.npz", x=rows, y=logits.argmax(1))
        about[kind] = {
            "shape": shape,
            "header": write_requests(folder, kind, rows[:N_REQUESTS]),
            "answer_header": write_answers(folder, kind, logits[0]),
            "labels": logits[:N_REQUESTS].argmax(1).tolist(),
            "model_bytes": len(model),
        }
    weights = [numpy_helper.to_array(w) for w in onnx.load(folder / "mlp.onnx").graph.initializer]
    # For the peer that takes no ONNX: (64, 128), 128, (128, 10), 10, as one row of f32.
    parts = [weights[0].T, weights[1], weights[2].T, weights[3]]
    by_shape = {part.shape for part in parts}
    assert by_shape == {(64, 128), (128,), (128, 10), (10,)}, by_shape
    np.concatenate([np.ascontiguousarray(part).ravel() for part in parts]).astype("<f4").tofile(folder / "mlp.f32")
    (folder / "about.json").write_text(json.dumps(about, indent=1))


if __name__ == "__main__":
    main()
