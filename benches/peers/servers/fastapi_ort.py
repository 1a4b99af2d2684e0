"""FastAPI with ONNX Runtime, as one writes it by hand: JSON, V1 and the binary extension, no checks to speak of."""

import json
import os

import numpy as np
import onnxruntime as ort
import orjson
from fastapi import FastAPI, Request, Response

options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = ort.InferenceSession(os.environ["PEER_MODEL"], options, providers=["CPUExecutionProvider"])
app = FastAPI()


@app.get("/v2/health/ready")
async def ready():
    return {"ready": True}


@app.post("/v2/models/clf/infer")
async def infer(request: Request):
    body = await request.body()
    length = request.headers.get("inference-header-content-length")
    asked = orjson.loads(body[: int(length)] if length else body)
    tensor = asked["inputs"][0]
    x = np.frombuffer(body, "<f4", offset=int(length)) if length else np.asarray(tensor["data"], "f")
    y = session.run(["output"], {"input": x.reshape(tensor["shape"])})[0]
    output = {"name": "output", "datatype": "FP32", "shape": list(y.shape)}
    answer = {"id": asked.get("id"), "model_name": "clf", "model_version": "1"}
    if not length:
        answer["outputs"] = [{**output, "data": y.ravel()}]
        return Response(orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")
    answer["outputs"] = [{**output, "parameters": {"binary_data_size": y.nbytes}}]
    header = json.dumps(answer).encode()
    told = {"Inference-Header-Content-Length": str(len(header))}
    return Response(header + y.tobytes(), media_type="application/octet-stream", headers=told)
