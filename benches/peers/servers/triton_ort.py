"""The wheel's Triton has the Python backend alone: ONNX Runtime in it, batches as they come."""

import os

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb


class TritonPythonModel:
    def initialize(self, args):
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        model = os.environ["PEER_MODEL"]
        self.session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.input, self.output = self.session.get_inputs()[0].name, self.session.get_outputs()[0].name

    def execute(self, requests):
        rows = [pb.get_input_tensor_by_name(request, self.input).as_numpy() for request in requests]
        logits = self.session.run([self.output], {self.input: np.concatenate(rows)})[0]
        answers, start = [], 0
        for x in rows:
            output = pb.Tensor(self.output, logits[start : start + len(x)])
            answers.append(pb.InferenceResponse(output_tensors=[output]))
            start += len(x)
        return answers
