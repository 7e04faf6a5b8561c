"""Daemons with tokens, one of each kind for each file of tests."""

from collections.abc import Iterator

import pytest

from tests.support import fleets
from tests.support.rest import Parts
from tests.support.running import Running
from tests.support.token_daemons import SECRETS, UNKNOWN, with_tokens


@pytest.fixture(scope="module")
def bare(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Without a model: whatever is asked of it does nothing."""
    running = with_tokens(parts, tmp_path_factory.mktemp("bare"))
    with running, running.client:
        running.wait_ready()
        running.ask("DELETE", "/api/tokens/revoked")
        yield running
        log = running.log.read_text()
        assert "ERROR" not in log
        for secret in (*SECRETS.values(), UNKNOWN):
            assert secret[14:] not in log


@pytest.fixture(scope="module")
def magid(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """With models of every tier, ready."""
    running = with_tokens(parts, tmp_path_factory.mktemp("access"))
    (running.profiles / "test.yaml").write_text(fleets.PROFILE)
    fleets.write_conversations(running.models)
    with running, running.client:
        running.wait_ready()
        yield running
