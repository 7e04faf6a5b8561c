"""Requests that schemathesis makes of /openapi.json, and what no answer to them may be.

Good and bad parameters and bodies for every operation that the document has. Models and profiles
that exist are asked for as often as names that nothing has, so that handlers are reached.
"""

import random
from collections.abc import Iterator
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import APIOperation, Case, CheckFunction, GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi import checks

from tests.support import rest
from tests.support.deadlines import DEADLINE_S
from tests.support.running import Running

Operation = APIOperation[Any, Any, Any, Any]
AnyCase = Case[Any]

# Documented, and no fault of the daemon: a call that it does not have; a server failed, is not
# ready, is late; the disk is full.
ALLOWED = (501, 502, 503, 504, 507)
LONGEST_WAIT_S = 0.5
# Values that path parameters take beside made-up ones: of `rest.serving`.
NAMES = {
    "modelId": [rest.ALPHA, rest.BETA, rest.GAMMA, rest.QWEN],
    "id": [rest.ALPHA, "fast", "auto"],
    "name": ["test", "other"],
    "tier": ["fast", "balanced", "powerful"],
}
SIGN_IN = "POST /api/session"
_CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
]


class Asker:
    """Asks one daemon, which is one of `rest.serving` and listens locally."""

    def __init__(self, magid: Running) -> None:
        self._url = url = magid.url
        self._session = requests.Session()
        self._session.trust_env = False
        document = self._session.get(f"{url}/openapi.json", timeout=DEADLINE_S).json()
        # Among the requests are some that make tokens: from the first one on all need one.
        self._token = magid.make_token("asker", "admin")
        self._session.headers["Authorization"] = f"Bearer {self._token}"
        self._schema = schemathesis.openapi.from_dict(document)
        self.asked = 0
        self.statuses: dict[int, int] = {}

    def close(self) -> None:
        self._session.close()

    def operations(self) -> Iterator[Operation]:
        """All that the document has."""
        for found in self._schema.get_all_operations():
            assert isinstance(found, Ok), found
            yield found.ok()

    def ask(self, operation: Operation, examples: int, number: int) -> None:
        """So many good and as many bad requests; the same ones for the same number."""
        self._many(operation, GenerationMode.POSITIVE, examples, number)
        if operation.body or operation.query:  # any text will do for a path
            self._many(operation, GenerationMode.NEGATIVE, examples, number)

    def _many(self, operation: Operation, mode: GenerationMode, examples: int, number: int) -> None:
        dice = random.Random(number)

        @seed(number)
        @settings(
            max_examples=examples,
            database=None,
            deadline=None,
            phases=[Phase.generate],  # shown as it was met: a second time the daemon is another
            suppress_health_check=list(HealthCheck),
        )
        @given(operation.as_strategy(mode))
        def one(case: AnyCase) -> None:
            for name, known in NAMES.items():
                if name in case.path_parameters and dice.random() < 0.5:
                    case.path_parameters[name] = dice.choice(known)
            if case.operation.label == SIGN_IN and mode is GenerationMode.POSITIVE:
                case.body = {"token": self._token}  # a made-up one is refused, and that slowly
            self._ask(case)

        one()

    def _ask(self, case: AnyCase) -> None:
        wait = case.query.get("wait")
        if isinstance(wait, int | float) and LONGEST_WAIT_S < wait <= 3600:
            case.query["wait"] = LONGEST_WAIT_S
        request = case.as_transport_kwargs(base_url=self._url)
        with self._session.request(**request, stream=True, timeout=DEADLINE_S) as response:
            self.asked += 1
            self.statuses[response.status_code] = self.statuses.get(response.status_code, 0) + 1
            assert response.headers["x-request-id"]
            self._check_failure(case, response)
            if "text/event-stream" in response.headers.get("content-type", ""):
                assert response.status_code == 200
                return  # it has no end
            case.validate_response(response, checks=self._checks_for(case, response.status_code))

    def _checks_for(self, case: AnyCase, status: int) -> list[CheckFunction]:
        """`?dryRun` and `?dryRun=` are true here, which no schema of OpenAPI 3.1 can say.

        That 413 refuses a text which is too long, schemathesis does not know.
        """
        is_right = "" in case.query.values() or status == 413
        return [c for c in _CHECKS if not is_right or c is not checks.negative_data_rejection]

    def _check_failure(self, case: AnyCase, response: requests.Response) -> None:
        """No failure of the daemon's own. llama-server has failures of its own, passed on."""
        status = response.status_code
        if status < 500 or status in ALLOWED:
            return
        answered_by_server = "x-magi-server" in response.headers
        assert answered_by_server, f"{status} {response.text}\n{case.as_curl_command()}"
