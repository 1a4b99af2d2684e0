"""KServe's InferenceRESTClient (V1 and V2) and InferenceGRPCClient, unchanged."""

import asyncio

import grpc
import httpx
import numpy as np
import pytest
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput


def talk(conversation, protocol="v2"):
    async def run():
        client = InferenceRESTClient(RESTConfig(protocol=protocol, retries=0, timeout=30))
        try:
            return await conversation(client)
        finally:
            await client.close()

    return asyncio.run(run())


def request(served, rows, binary, **more):
    tensor = InferInput(served.input, list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows, binary_data=binary)
    return InferRequest(model_name=served.name, infer_inputs=[tensor], **more)


def test_health(served):
    async def conversation(client):
        url = served.server.url
        assert await client.is_server_live(url) is True
        assert await client.is_server_ready(url) is True
        assert await client.is_model_ready(url, served.name) is True
        assert await client.is_model_ready(url, "nope") is False

    talk(conversation)


def test_inference_in_every_form(served):
    rows = served.rows(2)

    async def conversation(client):
        answers = []
        for binary_in in (False, True):
            for parameters in (None, {"binary_data_output": True}):
                asked = request(served, rows, binary_in, request_id="k1", parameters=parameters)
                answer = await client.infer(served.server.url, asked, model_name=served.name)
                assert answer.id == "k1" and answer.model_name == served.name
                answers.append({output.name: output.as_numpy() for output in answer.outputs})
        return answers

    answers = talk(conversation)
    for answer in answers:
        assert answer["probabilities"].shape == (2, served.n_classes)
        for name, values in answer.items():
            assert (values.astype(np.float32) == answers[0][name].astype(np.float32)).all()


def test_outputs_can_be_chosen(served):
    async def conversation(client):
        asked = request(served, served.rows(1), True, request_outputs=[RequestedOutput("probabilities")])
        return await client.infer(served.server.url, asked, model_name=served.name)

    assert [output.name for output in talk(conversation).outputs] == ["probabilities"]


def test_errors_are_read_by_the_client(served):
    async def conversation(client):
        with pytest.raises(httpx.HTTPStatusError) as refused:
            await client.infer(served.server.url, request(served, served.rows(1), True), model_name="nope")
        assert refused.value.response.status_code == 404 and "'nope'" in str(refused.value)
        with pytest.raises(httpx.HTTPStatusError) as refused:
            asked = request(served, served.rows(1), True, parameters={"sequence_id": 3})
            await client.infer(served.server.url, asked, model_name=served.name)
        assert refused.value.response.status_code == 400 and "no state" in str(refused.value)

    talk(conversation)


def test_v1(served):
    rows = served.rows(2)

    async def conversation(client):
        url = served.server.url
        assert await client.is_server_live(url) is True
        assert await client.is_model_ready(url, served.name) is True
        with pytest.raises(httpx.HTTPStatusError):
            await client.is_model_ready(url, "nope")
        rows_form = await client.infer(url, {"instances": rows.tolist()}, model_name=served.name)
        named = {"instances": [{served.input: row.tolist()} for row in rows]}
        assert await client.infer(url, named, model_name=served.name) == rows_form
        columns = await client.infer(url, {"inputs": rows.tolist()}, model_name=served.name)
        assert columns["outputs"] == rows_form["predictions"]
        return rows_form["predictions"]

    async def v2(client):
        return await client.infer(served.server.url, request(served, rows, False), model_name=served.name)

    predictions = np.array(talk(conversation, "v1"), dtype=np.float32)
    # The server's own number of decimals is lost in neither.
    probabilities = {output.name: output.as_numpy() for output in talk(v2).outputs}["probabilities"]
    assert (predictions == probabilities.astype(np.float32)).all()


def talk_grpc(served, conversation):
    async def run():
        async with InferenceGRPCClient(served.server.address, retries=0) as client:
            return await conversation(client)

    return asyncio.run(run())


def test_grpc(served):
    rows = served.rows(3)

    async def conversation(client):
        assert await client.is_server_live() is True and await client.is_server_ready() is True
        assert await client.is_model_ready(served.name) is True and await client.is_model_ready("nope") is False
        answers = []
        for binary in (False, True):
            answer = await client.infer(request(served, rows, binary, request_id="g1"))
            assert answer.id == "g1" and answer.model_name == served.name
            answers.append({output.name: output.as_numpy() for output in answer.outputs})
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await client.infer(InferRequest("nope", request(served, rows, True).inputs))
        assert refused.value.code() == grpc.StatusCode.NOT_FOUND
        return answers

    typed, raw = talk_grpc(served, conversation)
    assert typed["probabilities"].shape == (3, served.n_classes)
    for name, values in raw.items():
        assert (values == typed[name]).all()
