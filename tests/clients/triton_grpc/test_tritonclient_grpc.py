"""tritonclient.grpc: synchronous, asyncio and streaming, unchanged; and the same messages written by hand."""

import asyncio
import queue

import grpc
import numpy as np
import pytest
import tritonclient.grpc as sync
import tritonclient.grpc.aio as aio
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException


@pytest.fixture
def client(served):
    with sync.InferenceServerClient(served.server.address) as client:
        yield client


def given(module, served, rows):
    tensor = module.InferInput(served.input, list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows)
    return [tensor]


def check(result, n_rows, served):
    probabilities = result.as_numpy("probabilities")
    assert probabilities.shape == (n_rows, served.n_classes) and probabilities.dtype == np.float32
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-6) and (probabilities >= 0).all()
    return probabilities


def test_health_and_metadata(served, client):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready(served.name) and client.is_model_ready(served.name, "1")
    assert not client.is_model_ready("nope")
    extensions = ["binary_tensor_data", "classification", "model_configuration"]
    assert client.get_server_metadata().extensions == extensions
    metadata = client.get_model_metadata(served.name)
    assert metadata.versions == ["1"] and list(metadata.inputs[0].shape)[1:] == served.row
    config = client.get_model_config(served.name).config
    assert config.max_batch_size == 1024 and list(config.input[0].dims) == served.row


@pytest.mark.parametrize("n_rows", [1, 3])
def test_it_is_the_answer_of_rest(served, client, n_rows):
    import tritonclient.http as http

    rows = served.rows(n_rows)
    outputs = [sync.InferRequestedOutput(name) for name in ("probabilities", "logits")]
    result = client.infer(served.name, given(sync, served, rows), outputs=outputs, request_id="7")
    assert result.get_response().id == "7"
    tensor = http.InferInput(served.input, list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows)
    with http.InferenceServerClient(served.server.address) as rest:
        other = rest.infer(served.name, [tensor])
    assert (check(result, n_rows, served) == check(other, n_rows, served)).all()
    assert (result.as_numpy("logits") == other.as_numpy("logits")).all()


def test_compression_classification_and_typed_contents(served, client):
    rows = served.rows(64)
    plain = check(client.infer(served.name, given(sync, served, rows)), 64, served)
    for coding in ("gzip", "deflate"):
        packed = client.infer(served.name, given(sync, served, rows), compression_algorithm=coding)
        assert (check(packed, 64, served) == plain).all()
    asked = [sync.InferRequestedOutput("probabilities", class_count=2)]
    classes = client.infer(served.name, given(sync, served, rows), outputs=asked).as_numpy("probabilities")
    assert classes.shape == (64, 2)
    assert [int(row[0].split(b":")[1]) for row in classes] == plain.argmax(axis=1).tolist()
    with grpc.insecure_channel(served.server.address) as channel:
        request = service_pb2.ModelInferRequest(model_name=served.name)
        tensor = request.inputs.add(name=served.input, datatype="FP32", shape=rows.shape)
        tensor.contents.fp32_contents.extend(rows.ravel().tolist())
        response = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
    names = [output.name for output in response.outputs]
    raw = response.raw_output_contents[names.index("probabilities")]
    assert (np.frombuffer(raw, "<f4").reshape(plain.shape) == plain).all()


def test_errors_have_their_codes(served, client):
    rows = served.rows(1)
    inputs = given(sync, served, rows)
    nan = rows.copy()
    nan.flat[3] = np.nan
    region = sync.InferRequestedOutput("logits")
    region.set_shared_memory("region", 40)
    for status, word, call in [
        ("NOT_FOUND", "'nope' is not found", lambda: client.infer("nope", inputs)),
        ("NOT_FOUND", "version '9'", lambda: client.infer(served.name, inputs, model_version="9")),
        ("NOT_FOUND", "'nope'", lambda: client.get_model_metadata("nope")),
        ("INVALID_ARGUMENT", "'zz'", lambda: client.infer(served.name, inputs, outputs=[sync.InferRequestedOutput("zz")])),
        ("INVALID_ARGUMENT", "position 3", lambda: client.infer(served.name, given(sync, served, nan))),
        ("INVALID_ARGUMENT", "shared memory", lambda: client.infer(served.name, inputs, outputs=[region])),
        ("INVALID_ARGUMENT", "no state", lambda: client.infer(served.name, inputs, sequence_id=5)),
        ("PERMISSION_DENIED", "--allow-repository-control", client.get_model_repository_index),
        ("PERMISSION_DENIED", "--allow-repository-control", lambda: client.unload_model(served.name)),
        ("PERMISSION_DENIED", "--statistics", client.get_inference_statistics),
        ("UNIMPLEMENTED", "no such method", client.get_trace_settings),
        ("UNIMPLEMENTED", "no such method", lambda: client.register_system_shared_memory("r", "/k", 40)),
    ]:
        with pytest.raises(InferenceServerException) as refused:
            call()
        assert refused.value.status() == f"StatusCode.{status}" and word in refused.value.message(), refused.value
    check(client.infer(served.name, inputs, client_timeout=20), 1, served)


def test_a_stream_goes_on_after_a_refusal(served, client):
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    rows = served.rows(2)
    for model, number in ((served.name, "1"), ("nope", "2"), (served.name, "3")):
        client.async_stream_infer(model, given(sync, served, rows), request_id=number)
    first, second, third = (answers.get(timeout=20) for _ in range(3))
    client.stop_stream()
    assert first[1] is None and third[1] is None and "'nope' is not found" in second[1].message()
    alone = check(client.infer(served.name, given(sync, served, rows)), 2, served)
    for result, number in ((first[0], "1"), (third[0], "3")):
        assert result.get_response().id == number and (check(result, 2, served) == alone).all()


def test_asyncio(served):
    async def talk():
        async with aio.InferenceServerClient(served.server.address) as client:
            assert await client.is_server_live() and await client.is_model_ready(served.name)
            many = [client.infer(served.name, given(aio, served, served.rows(1))) for _ in range(8)]
            for result in await asyncio.gather(*many):
                check(result, 1, served)

            async def requests():
                for _ in range(3):
                    yield {"model_name": served.name, "inputs": given(aio, served, served.rows(2))}

            answers = [answer async for answer in client.stream_infer(requests())]
            assert len(answers) == 3
            for result, error in answers:
                assert error is None
                check(result, 2, served)

    asyncio.run(talk())
