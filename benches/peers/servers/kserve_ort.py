"""KServe's ModelServer with ONNX Runtime."""

import argparse
import os

import numpy as np
import onnxruntime as ort
from kserve import InferOutput, InferResponse, Model, ModelServer, model_server


class Classifier(Model):
    def load(self):
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        model = os.environ["PEER_MODEL"]
        self.session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.input, self.output = self.session.get_inputs()[0].name, self.session.get_outputs()[0].name
        self.ready = True

    def predict(self, payload, headers=None, response_headers=None):
        if isinstance(payload, dict):
            rows = np.array(payload["instances"], "f")
            return {"predictions": self.session.run([self.output], {self.input: rows})[0].tolist()}
        y = self.session.run([self.output], {self.input: payload.inputs[0].as_numpy().astype("f")})[0]
        output = InferOutput(name=self.output, shape=list(y.shape), datatype="FP32")
        output.set_data_from_numpy(y, binary_data=True)
        return InferResponse(
            model_name=self.name,
            infer_outputs=[output],
            response_id=payload.id,
            requested_outputs=payload.request_outputs,
            use_binary_outputs=payload.use_binary_outputs,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(parents=[model_server.parser])
    parser.parse_known_args()
    classifier = Classifier("clf")
    classifier.load()
    ModelServer().start([classifier])
