"""What orchestrators and tools ask over gRPC: health, as a Kubernetes probe does, and reflection."""

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

SERVICE = "inference.GRPCInferenceService"


@pytest.fixture
def channel(bundled):
    with grpc.insecure_channel(bundled.server.address) as channel:
        yield channel


def test_health(bundled, channel):
    stub = health_pb2_grpc.HealthStub(channel)
    for service in ("", SERVICE, bundled.name):
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=20)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as refused:
        stub.Check(health_pb2.HealthCheckRequest(service="nope"), timeout=20)
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND
    watch = stub.Watch(health_pb2.HealthCheckRequest(service=""))
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()


def test_reflection(channel):
    database = ProtoReflectionDescriptorDatabase(channel)
    services = database.get_services()
    assert SERVICE in services and "grpc.health.v1.Health" in services
    file = database.FindFileContainingSymbol(SERVICE)
    methods = {method.name for service in file.service for method in service.method}
    assert {"ModelInfer", "ModelStreamInfer", "ModelConfig"} <= methods
    assert not {method for method in methods if "SharedMemory" in method or "Trace" in method}


def test_a_port_of_its_own_serves_the_same(bundled, tmp_path):
    from conftest import Sordino, free_port

    port = free_port()
    server = Sordino("--grpc-listen", f"127.0.0.1:{port}", cwd=tmp_path)
    for address in (server.address, f"127.0.0.1:{port}"):
        with grpc.insecure_channel(address) as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert server.get("/v2/health/ready", f"127.0.0.1:{port}")[0] == 200
    assert server.stop() == 0
