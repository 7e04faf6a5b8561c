"""Downloads from a hub that stands still, or sends little at a time; also over TLS."""

import random
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from magid.library.source import ModelSource
from tests.api.test_tls import make_pair
from tests.support.hub import HubFault, HubRepository, ModelHub, running_hub
from tests.support.transfers import Transfers

MODEL = random.Random(1).randbytes(3_000_000)
PLAIN = ModelSource("org/Plain")
SMALL = ModelSource("org/Small")
PATH = "org/Plain/m-Q4_K_M.gguf"


@pytest.fixture(params=["http", "https"])
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def hub(tmp_path: Path, scheme: str) -> Iterator[ModelHub]:
    tls = None
    if scheme == "https":
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*make_pair(tmp_path / "tls"))
    repositories = {
        "org/Plain": HubRepository({"m-Q4_K_M.gguf": MODEL}),
        "org/Small": HubRepository({"m-Q4_K_M.gguf": MODEL[:150_000]}),
    }
    with running_hub(repositories, tls=tls) as hub:
        yield hub


@pytest.fixture
def transfers(tmp_path: Path, hub: ModelHub) -> Transfers:
    library = tmp_path / "models"
    library.mkdir()
    transfers = Transfers(library, hub)
    transfers.environment["SSL_CERT_FILE"] = str(tmp_path / "tls/cert.pem")
    return transfers


def test_what_has_come_is_seen_long_before_a_connection_counts_as_cut(
    transfers: Transfers, hub: ModelHub
) -> None:
    """And the rate falls."""
    transfers.options["stall"] = "1000"
    hub.faults += [HubFault("stall", 2_000_000)]
    with transfers.running(PLAIN):
        status = transfers.until(PLAIN, lambda status: status.done == 2_000_000)
        assert status.state == "downloading"
        transfers.until(PLAIN, lambda later: later.rate < status.rate / 2)


def test_a_connection_that_stands_still_is_cut(transfers: Transfers, hub: ModelHub) -> None:
    transfers.options["stall"] = "1"
    hub.faults += [HubFault("stall", 1_000_000), HubFault("stall", 500_000)]
    assert transfers.run(PLAIN).state == "done"
    assert transfers.models[PATH] == MODEL
    begins = [head.get("Range") for _, head in hub.requests_of("files")]
    assert begins == [None, "bytes=1000000-", "bytes=1500000-"]


def test_a_byte_now_and_then_is_no_standstill(transfers: Transfers, hub: ModelHub) -> None:
    """Three chunks, each after more than a second, and all of them on one connection."""

    def slowly(_count: int) -> None:
        hub.released.wait(1.2)

    hub.speed = slowly
    assert transfers.run(SMALL).state == "done"
    assert transfers.models["org/Small/m-Q4_K_M.gguf"] == MODEL[:150_000]
    assert len(hub.requests_of("files")) == 1
