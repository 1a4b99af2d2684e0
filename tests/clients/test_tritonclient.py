"""tritonclient.http, synchronous and asyncio, unchanged."""

import asyncio

import numpy as np
import pytest
import tritonclient.http as sync
import tritonclient.http.aio as aio
from tritonclient.utils import InferenceServerException


@pytest.fixture
def client(served):
    with sync.InferenceServerClient(served.server.address) as client:
        yield client


def given(module, served, rows, binary):
    tensor = module.InferInput(served.input, list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows, binary_data=binary)
    return [tensor]


def check(result, n_rows, served):
    probabilities = result.as_numpy("probabilities")
    assert probabilities.shape == (n_rows, served.n_classes) and probabilities.dtype == np.float32
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-6) and (probabilities >= 0).all()
    return probabilities


def test_health(served, client):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready(served.name) and client.is_model_ready(served.name, "1")
    assert not client.is_model_ready("nope") and not client.is_model_ready(served.name, "9")


def test_metadata(served, client):
    extensions = ["binary_tensor_data", "classification", "model_configuration"]
    assert client.get_server_metadata()["extensions"] == extensions
    metadata = client.get_model_metadata(served.name)
    assert metadata["versions"] == ["1"] and metadata["inputs"][0]["shape"][0] == -1
    assert [output["name"] for output in metadata["outputs"]] == ["logits", "probabilities"]
    assert client.get_model_metadata(served.name, "1") == metadata


@pytest.mark.parametrize("n_rows", [1, 3])
def test_json_and_binary_both_ways(served, client, n_rows):
    rows = served.rows(n_rows)
    answers = []
    for binary_in in (False, True):
        for binary_out in (False, True):
            outputs = [sync.InferRequestedOutput(name, binary_data=binary_out) for name in ("probabilities", "logits")]
            result = client.infer(served.name, given(sync, served, rows, binary_in), outputs=outputs, request_id="7")
            assert result.get_response()["id"] == "7"
            assert [output["name"] for output in result.get_response()["outputs"]] == ["probabilities", "logits"]
            answers.append((check(result, n_rows, served), result.as_numpy("logits")))
    for probabilities, logits in answers[1:]:
        assert (probabilities == answers[0][0]).all() and (logits == answers[0][1]).all()
    assert (answers[0][1].argmax(axis=1) == answers[0][0].argmax(axis=1)).all()
    assert (answers[0][1] <= 0).all(), "the output named logits holds log-probabilities"


def test_all_outputs_come_binary_when_none_is_named(served, client):
    result = client.infer(served.name, given(sync, served, served.rows(2), True), timeout=5_000_000, priority=1)
    check(result, 2, served)
    assert all("binary_data_size" in output["parameters"] for output in result.get_response()["outputs"])
    assert "id" not in result.get_response()


def test_configuration_lets_a_load_tool_fill_the_batch(served, client):
    config = client.get_model_config(served.name)
    assert config["max_batch_size"] == 1024 and config["input"][0]["dims"] == served.row
    assert config["input"][0]["data_type"] == "TYPE_FP32" and config["output"][0]["dims"] == [served.n_classes]


@pytest.mark.parametrize("binary", [False, True])
def test_a_classification_holds_the_defended_values(served, client, binary):
    inputs = given(sync, served, served.rows(3), True)
    values = client.infer(served.name, inputs).as_numpy("probabilities")
    asked = [sync.InferRequestedOutput("probabilities", binary_data=binary, class_count=2)]
    classes = client.infer(served.name, inputs, outputs=asked).as_numpy("probabilities")
    assert classes.shape == (3, 2)
    for row, strings in zip(values, classes):
        for place, string in enumerate(strings):
            value, index, *_ = (string.decode() if isinstance(string, bytes) else string).split(":")
            assert abs(float(value) - row[int(index)]) < 1e-6
            assert place > 0 or int(index) == row.argmax()


def test_async_infer(served, client):
    pending = [client.async_infer(served.name, given(sync, served, served.rows(1), True)) for _ in range(3)]
    for request in pending:
        check(request.get_result(), 1, served)


def test_errors_are_read_by_the_client(served, client):
    rows = served.rows(1)
    inputs = given(sync, served, rows, True)
    wrong_name = sync.InferInput("nope", list(rows.shape), "FP32")
    wrong_name.set_data_from_numpy(rows)
    wrong_shape = given(sync, served, rows.reshape(1, -1)[:, :-1].copy(), True)
    nan = rows.copy()
    nan.flat[3] = np.nan
    region = sync.InferRequestedOutput("logits")
    region.set_shared_memory("region", 40)
    for status, word, call in [
        ("404", "'nope' is not found", lambda: client.infer("nope", inputs)),
        ("404", "version '9'", lambda: client.infer(served.name, inputs, model_version="9")),
        ("404", "'nope'", lambda: client.get_model_metadata("nope")),
        ("400", "'zz'", lambda: client.infer(served.name, inputs, outputs=[sync.InferRequestedOutput("zz")])),
        ("400", "'nope'", lambda: client.infer(served.name, [wrong_name])),
        ("400", "shape", lambda: client.infer(served.name, wrong_shape)),
        ("400", "position 3 is not a finite", lambda: client.infer(served.name, given(sync, served, nan, True))),
        ("400", "NaN", lambda: client.infer(served.name, given(sync, served, nan, False))),
        ("400", "shared memory", lambda: client.infer(served.name, inputs, outputs=[region])),
        ("400", "no state", lambda: client.infer(served.name, inputs, sequence_id=5)),
        ("400", "'mine'", lambda: client.infer(served.name, inputs, parameters={"mine": 1})),
        ("403", "--allow-repository-control", client.get_model_repository_index),
        ("403", "--allow-repository-control", lambda: client.load_model(served.name)),
        ("403", "--statistics", client.get_inference_statistics),
        ("404", "no such path", lambda: client.register_system_shared_memory("r", "/k", 40)),
        ("404", "no such path", client.get_trace_settings),
        ("404", "no such path", client.get_log_settings),
    ]:
        with pytest.raises(InferenceServerException) as refused:
            call()
        assert refused.value.status() == status and word in refused.value.message(), refused.value
    check(client.infer(served.name, inputs), 1, served)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("binary", [False, True])
def test_bodies_may_be_compressed_both_ways(served, client, coding, binary):
    inputs = given(sync, served, served.rows(64), binary)
    outputs = [sync.InferRequestedOutput("probabilities", binary_data=binary)]
    plain = check(client.infer(served.name, inputs, outputs=outputs), 64, served)
    packed = client.infer(
        served.name, inputs, outputs=outputs, request_compression_algorithm=coding, response_compression_algorithm=coding
    )
    assert (check(packed, 64, served) == plain).all()


def test_asyncio(served):
    async def talk():
        async with aio.InferenceServerClient(served.server.address) as client:
            assert await client.is_server_live() and await client.is_server_ready()
            assert await client.is_model_ready(served.name) and not await client.is_model_ready("nope")
            assert (await client.get_model_metadata(served.name))["name"] == served.name
            answers = []
            for binary in (False, True):
                outputs = [aio.InferRequestedOutput("probabilities", binary_data=binary)]
                inputs = given(aio, served, served.rows(2), binary)
                answers.append(check(await client.infer(served.name, inputs, outputs=outputs), 2, served))
            assert (answers[0] == answers[1]).all()
            many = [client.infer(served.name, given(aio, served, served.rows(1), True)) for _ in range(8)]
            for result in await asyncio.gather(*many):
                check(result, 1, served)
            with pytest.raises(InferenceServerException) as refused:
                await client.infer("nope", inputs)
            assert refused.value.status() == "404"

    asyncio.run(talk())
