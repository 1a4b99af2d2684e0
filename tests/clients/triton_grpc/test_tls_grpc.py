"""tritonclient.grpc over TLS: the port of REST, a port of its own, clients that must show a certificate."""

import asyncio

import numpy as np
import pytest
import tritonclient.grpc as sync
import tritonclient.grpc.aio as aio
from conftest import CERTIFICATE, CLIENTS_ASKED, TLS, Served, Sordino, free_port, trusting
from tritonclient.utils import InferenceServerException

TRUSTS = {"ssl": True, "root_certificates": str(TLS / "test-authority.pem")}
SHOWS = {**TRUSTS, "private_key": str(TLS / "test-client.key"), "certificate_chain": str(TLS / "test-client.pem")}


def given(module, served, n):
    rows = served.rows(n)
    tensor = module.InferInput(served.input, list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows)
    return [tensor]


def check(result, n, served):
    probabilities = result.as_numpy("probabilities")
    assert probabilities.shape == (n, served.n_classes) and np.allclose(probabilities.sum(axis=1), 1)


def test_both_ports_speak_tls(own_model):
    port = free_port()
    own = ("--grpc-listen", f"127.0.0.1:{port}")
    server = Sordino("--config", own_model / "sordino.toml", *CERTIFICATE, *own, tls=trusting())
    served = Served(server)
    for address in (server.address, f"127.0.0.1:{port}"):
        with sync.InferenceServerClient(address, **TRUSTS) as client:
            assert client.is_server_ready()
            check(client.infer(served.name, given(sync, served, 3)), 3, served)
        with pytest.raises(InferenceServerException), sync.InferenceServerClient(address) as plain:
            plain.is_server_live()
    assert server.stop() == 0


def test_a_client_must_show_a_certificate_where_it_is_asked_for_one(own_model):
    server = Sordino("--config", own_model / "sordino.toml", *CLIENTS_ASKED, tls=trusting(shows=True))
    served = Served(server)

    async def ask():
        credentials = {key: value for key, value in SHOWS.items()}
        async with aio.InferenceServerClient(server.address, **credentials) as client:
            check(await client.infer(served.name, given(aio, served, 2)), 2, served)

    asyncio.run(ask())
    with pytest.raises(InferenceServerException), sync.InferenceServerClient(server.address, **TRUSTS) as client:
        client.is_server_live()
    assert server.stop() == 0
