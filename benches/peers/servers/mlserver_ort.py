"""MLServer has no ONNX runtime of its own: the shortest one."""

import os

import onnxruntime as ort
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class OnnxRuntime(MLModel):
    async def load(self):
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        model = os.environ["PEER_MODEL"]
        self.session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.input, self.output = self.session.get_inputs()[0].name, self.session.get_outputs()[0].name
        return True

    async def predict(self, payload):
        x = NumpyCodec.decode_input(payload.inputs[0]).astype("f")
        y = NumpyCodec.encode_output(self.output, self.session.run([self.output], {self.input: x})[0])
        return InferenceResponse(id=payload.id, model_name=self.name, model_version=self.version, outputs=[y])
