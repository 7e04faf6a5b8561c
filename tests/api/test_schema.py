"""Every operation of /openapi.json against a real daemon, asked by schemathesis.

The requests are the same in each run; `make soak` makes others, and more of them, in the same way
(tests/soak/conformance.py).
"""

from collections.abc import Iterator

import pytest

from magid.api.openapi import make_route
from magid.api.routes import ROUTES
from magid.gateway.routing.endpoints import ENDPOINTS
from tests.support import rest
from tests.support.asking import Asker
from tests.support.running import Running

pytestmark = pytest.mark.slow

EXAMPLES = 8  # of each operation and kind
LABELS = [f"{r.method} {r.path}" for r in (*ROUTES, make_route(ROUTES))]
LABELS += [f"{e.method} {e.path}" for e in ENDPOINTS]


@pytest.fixture(scope="module")
def magid(parts: rest.Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with rest.serving(parts, tmp_path_factory.mktemp("daemon"), locally=True) as running:
        yield running
        assert "Traceback" not in running.log.read_text()


@pytest.fixture(scope="module")
def asker(magid: Running) -> Iterator[Asker]:
    asker = Asker(magid)
    yield asker
    asker.close()


@pytest.mark.parametrize("label", LABELS)
def test_answers_are_those_of_the_document(asker: Asker, label: str) -> None:
    (operation,) = (found for found in asker.operations() if found.label == label)
    before = asker.asked
    asker.ask(operation, EXAMPLES, number=7)
    assert asker.asked > before


def test_it_is_well_behind_all_of_this(magid: Running, asker: Asker) -> None:
    assert magid.get("/livez") == {"status": "ok"}
    assert {200, 400, 404} <= asker.statuses.keys(), "neither handlers nor checks were reached"
    assert 401 not in asker.statuses, "somebody was turned away at the door"
