"""Several models and versions from a folder, and their control by tritonclient."""

import shutil

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from conftest import LABEL_ONLY, Sordino, linear_model
from tritonclient.utils import InferenceServerException


@pytest.fixture
def repository(tmp_path):
    root = tmp_path / "models"
    for name, versions in (("a", ("1", "2", "10")), ("b", ("1",))):
        (root / name).mkdir(parents=True)
        (root / name / "sordino.toml").write_text(LABEL_ONLY)
        for version in versions:
            (root / name / version).mkdir()
            linear_model(root / name / version / "model.onnx")
    return root


def ask(client, module, name, version=""):
    tensor = module.InferInput("x", [1, 64], "FP32")
    tensor.set_data_from_numpy(np.ones((1, 64), dtype=np.float32))
    return client.infer(name, [tensor], model_version=version)


def test_models_and_versions(repository):
    server = Sordino("--repository", repository)
    with triton_http.InferenceServerClient(server.address) as client:
        assert client.get_model_metadata("a")["versions"] == ["1", "2", "10"]
        assert ask(client, triton_http, "a").get_response()["model_version"] == "10"
        assert ask(client, triton_http, "a", "2").get_response()["model_version"] == "2"
        assert ask(client, triton_http, "b").get_response()["model_name"] == "b"
        with pytest.raises(InferenceServerException):
            ask(client, triton_http, "a", "3")
        with pytest.raises(InferenceServerException, match="allow-repository-control"):
            client.unload_model("a")
    assert server.stop() == 0


@pytest.mark.parametrize("module", [triton_http, triton_grpc])
def test_control_where_it_is_allowed(repository, module):
    server = Sordino("--repository", repository, "--allow-repository-control")

    def index(client):
        if module is triton_http:
            entries = client.get_model_repository_index()
        else:
            entries = client.get_model_repository_index(as_json=True)["models"]
        return {(entry["name"], entry.get("version", ""), entry["state"]) for entry in entries}

    with module.InferenceServerClient(server.address) as client:
        assert ("a", "10", "READY") in index(client) and ("b", "1", "READY") in index(client)
        client.unload_model("b")
        assert ("b", "", "UNAVAILABLE") in index(client) and not client.is_model_ready("b")
        with pytest.raises(InferenceServerException, match="not found"):
            ask(client, module, "b")
        (repository / "b" / "2").mkdir()
        shutil.copy(repository / "b/1/model.onnx", repository / "b/2/model.onnx")
        client.load_model("b")
        assert client.is_model_ready("b", "2")
        (repository / "b/2/model.onnx").write_bytes(b"junk")
        for name in ("b", "nope", "..", "a/../b"):
            with pytest.raises(InferenceServerException):
                client.load_model(name)
        assert client.is_model_ready("b", "2"), "a load that fails leaves what is served"
        with pytest.raises(InferenceServerException, match="operator"):
            client.load_model("a", files={"file:1/model.onnx": b"junk"}, config="{}")
    assert server.stop() == 0


def test_statistics_where_they_are_shown(repository):
    server = Sordino("--repository", repository, "--statistics")
    with triton_http.InferenceServerClient(server.address) as client:
        ask(client, triton_http, "a")
        (entry,) = client.get_inference_statistics("a", "10")["model_stats"]
        assert entry["inference_count"] == 1 and entry["inference_stats"]["success"]["ns"] > 0
        assert len(client.get_inference_statistics()["model_stats"]) == 4
    with triton_grpc.InferenceServerClient(server.address) as client:
        entry = client.get_inference_statistics("a", "10").model_stats[0]
        assert entry.inference_count == 1 and entry.inference_stats.compute_infer.count == 1
    assert server.stop() == 0
