"""What a scrape shows: every figure of a daemon in this process, in both of Prometheus' formats."""

import json
import os
import re
import select
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as of_openmetrics
from prometheus_client.parser import text_string_to_metric_families as of_text

from magid.api import metrics_families, metrics_samples
from magid.api.context import Context
from magid.api.handlers.metrics import discover, get_server_metrics
from magid.api.handlers.servers import readyz
from magid.api.metrics_families import FAMILIES, Buckets, Kind
from magid.api.reply import Call, Reply
from magid.discovery.tiers import Tier
from magid.errors import CannotWrite, LlamaServerMissing, MagidError, ServerUnreachable
from magid.gateway.accounting.request_log import Outcome, Record
from magid.gateway.dispatcher import Dispatcher
from magid.gateway.proxy.forward import ForwardedRequest
from magid.gateway.routing.endpoints import find
from magid.gateway.routing.request import ParsedRequest
from magid.gateway.routing.resolver import ModelRoute, Reason
from magid.http.framing import ReplyHead
from magid.llama.program import LlamaProgram
from magid.llama.runtime_settings import RuntimeSettings
from magid.servers.backend import ServerState
from magid.systemd.bus import BusError
from tests.support.daemons import ALPHA, BETA, EVERYTHING, GAMMA, House

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/metrics.md"
OPENMETRICS = "application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1"  # as Prometheus asks


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    made = House(tmp_path)
    yield made
    await made.close()


async def no_program(_engine: str | None = None, /) -> LlamaProgram:
    raise LlamaServerMissing("cannot find llama-server")


async def context(house: House) -> Context:
    daemon = await house.running()
    return Context(daemon, no_program, Dispatcher(daemon), house.tokens(), house.downloads(daemon))


async def scrape(ctx: Context) -> dict[str, dict[frozenset[tuple[str, str]], float]]:
    """Name of a sample -> its labels -> its value."""
    text, _ = metrics_families.render(await metrics_samples.gather(ctx), None)
    found: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
    for family in of_text(text.decode()):
        for sample in family.samples:
            row = found.setdefault(sample.name, {})
            key = frozenset(sample.labels.items())
            assert key not in row, f"{sample.name} has {sample.labels} twice"
            row[key] = sample.value
    return found


def labels(**wanted: str) -> frozenset[tuple[str, str]]:
    return frozenset(wanted.items())


# -- the table ---------------------------------------------------------------------------------


def test_the_table_in_the_document_is_the_one_in_the_code() -> None:
    text = DOCUMENT.read_text()
    rows = re.findall(r"^\| `(magi_\w+)` \| (\w+) \| (.*?) \| (.*) \|$", text, re.M)
    shown = [(f.name, str(f.kind), ", ".join(f"`{n}`" for n in f.labels), f.help) for f in FAMILIES]
    assert rows == shown


def test_names_follow_the_conventions() -> None:
    for family in FAMILIES:
        assert re.fullmatch(r"magi_[a-z]+(_[a-z]+)+|magi_[a-z]+", family.name)
        assert family.name.endswith("_total") is (family.kind is Kind.COUNTER)
        assert family.name.endswith("_info") is (family.kind is Kind.INFO)
        # Prometheus gives these to what it scrapes; ours would be called exported_instance.
        assert {"instance", "job", "le"}.isdisjoint(family.labels)
        assert not family.help.endswith(".")


def made_up(kind: Kind) -> float | Buckets:
    return Buckets((0.5, 1.0), (1, 0, 2), 9.0) if kind is Kind.HISTOGRAM else 3.0


@pytest.mark.parametrize(
    "accept", ["application/openmetrics-text; version=x", "text/plain; version=1.x.0; escaping="]
)
def test_whatever_a_client_accepts_there_is_a_text(accept: str) -> None:
    text, content_type = metrics_families.render({}, accept)
    assert content_type.startswith("text/plain")
    of_text(text.decode())


@pytest.mark.parametrize(
    ("accept", "parse"),
    [(None, of_text), (OPENMETRICS, of_openmetrics)],
    ids=["text", "openmetrics"],
)
def test_both_formats_can_be_parsed(accept: str | None, parse: Callable[[str], Any]) -> None:
    given = {f.name: [([f'a "{n}"\n\\' for n in f.labels], made_up(f.kind))] for f in FAMILIES}
    text, content_type = metrics_families.render(given, accept)
    assert content_type.startswith((accept or "text/plain").partition(";")[0])
    found = {s.name: s for family in parse(text.decode()) for s in family.samples}
    for family in FAMILIES:
        sample = found[f"{family.name}_sum" if family.kind is Kind.HISTOGRAM else family.name]
        expected = {Kind.INFO: 1.0, Kind.HISTOGRAM: 9.0}.get(family.kind, 3.0)
        assert sample.value == expected
        assert sample.labels == {n: f'a "{n}"\n\\' for n in family.labels}
    assert {"process_resident_memory_bytes", "python_info"} <= found.keys()


def test_buckets_are_cumulative() -> None:
    name = "magi_gateway_queue_wait_seconds"
    text, _ = metrics_families.render(
        {name: [(("m", "fast"), Buckets((0.5, 1.0), (1, 0, 2), 9.0))]}, None
    )
    rows = re.findall(rf'{name}_bucket{{le="([^"]+)".*?}} (\S+)', text.decode())
    assert rows == [("0.5", "1.0"), ("1.0", "1.0"), ("+Inf", "3.0")]
    assert f'{name}_count{{model="m",tier="fast"}} 3.0' in text.decode()


def test_a_figure_that_is_not_in_the_table_is_a_mistake() -> None:
    with pytest.raises(KeyError, match="magi_unheard_of"):
        metrics_families.render({"magi_unheard_of": [((), 1.0)]}, None)


# -- a daemon ----------------------------------------------------------------------------------


async def test_what_runs(house: House) -> None:
    ctx = await context(house)
    port = next(p for p, s in house.launcher.specs.items() if s.model_id == BETA)
    house.launcher.show(port, ServerState.BACKOFF, "exit status 1")
    shown = await scrape(ctx)
    states = shown["magi_server_state"]
    assert len(states) == 3 * len(ServerState)
    assert states[labels(model=BETA, port=str(port), state="backoff")] == 1
    assert states[labels(model=BETA, port=str(port), state="ready")] == 0
    assert sum(states.values()) == 3
    about = labels(model=BETA, port=str(port), tier="balanced", index="0",
                   unit=f"llama-server@{port}.service")  # fmt: skip
    assert shown["magi_server_info"][about] == 1
    assert shown["magi_server_wanted"][labels(model=BETA, port=str(port))] == 1
    assert shown["magi_models"][labels(tier="fast", enabled="true")] == 1
    assert shown["magi_ready"][labels()] == 0
    assert shown["magi_phase"][labels(phase="serving")] == 1
    assert shown["magi_profile_info"][labels(profile="test")] == 1


async def test_a_model_on_demand_is_wanted_once_it_was_asked_for(house: House) -> None:
    house.settings["server_defaults"] = RuntimeSettings(start="on-demand")
    ctx = await context(house)

    async def wanted() -> dict[str, float]:
        shown = (await scrape(ctx))["magi_server_wanted"]
        return {dict(key)["model"]: value for key, value in shown.items()}

    assert await wanted() == {ALPHA: 0, BETA: 0, GAMMA: 0}
    await ctx.daemon.start(BETA)
    assert await wanted() == {ALPHA: 0, BETA: 1, GAMMA: 0}


async def test_scans_and_files(house: House) -> None:
    (house.models / "Broken-1B-Q4_K_M.gguf").write_bytes(b"GGUF")
    ctx = await context(house)
    house.path_of("Gamma").unlink()
    await ctx.daemon.rescan()
    shown = await scrape(ctx)
    files = shown["magi_discovery_files"]
    assert files == {
        labels(result="model"): 2, labels(result="broken"): 1, labels(result="missing"): 1,
        labels(result="pending"): 0,
    }  # fmt: skip
    assert shown["magi_discovery_scans_total"][labels(result="ok")] == 2
    assert shown["magi_discovery_last_scan_timestamp_seconds"][labels()] > 1.7e9


async def test_a_broken_profile_and_a_failed_scan_show_as_a_failed_reload(house: House) -> None:
    ctx = await context(house)

    async def is_good() -> float:
        ctx.daemon.refresh_profile()
        return (await scrape(ctx))["magi_config_last_reload_successful"][labels()]

    assert await is_good() == 1
    house.write_profile("test", "name: [")
    assert await is_good() == 0
    house.write_profile("test", EVERYTHING)
    assert await is_good() == 1
    house.models.rename(house.folder / "away")
    with pytest.raises(Exception, match="cannot read any model folder"):
        await ctx.daemon.rescan()
    shown = await scrape(ctx)
    assert shown["magi_config_last_reload_successful"][labels()] == 0
    assert shown["magi_discovery_scans_total"][labels(result="error")] == 1


async def test_registry_writes(house: House) -> None:
    ctx = await context(house)
    before = await scrape(ctx)
    assert before["magi_registry_writes_total"] == {
        labels(result="ok"): 1, labels(result="error"): 0,
    }  # fmt: skip
    house.state.rename(house.folder / "elsewhere")
    house.state.write_text("no folder")
    with pytest.raises(CannotWrite):
        await ctx.daemon.set_tier(ALPHA, Tier.POWERFUL)
    shown = await scrape(ctx)
    assert shown["magi_registry_writes_total"] == {
        labels(result="ok"): 1, labels(result="error"): 1,
    }  # fmt: skip
    when = "magi_registry_last_write_timestamp_seconds"
    assert shown[when] == before[when]


async def test_requests_that_have_ended(house: House) -> None:
    assert issubclass(BusError, MagidError)  # under systemd; it is not made of a message alone
    ctx = await context(house)
    route = ModelRoute(ALPHA, (), "", Tier.FAST, reason=Reason.MODEL)
    full = Record("1", 0.0, "/v1/completions", ALPHA, is_stream=False)
    full.outcome, full.problem = Outcome.REFUSED, "QueueFull"
    ctx.gateway.statistics.add(full, route)
    assert ctx.gateway.fleet.offers  # it knows its models
    shown = await scrape(ctx)
    key = labels(
        model=ALPHA, tier="fast", path="/v1/completions", route="model", outcome="refused",
        code="429",
    )  # fmt: skip
    assert shown["magi_gateway_requests_total"] == {key: 1}


async def test_ready_is_what_readyz_says(house: House) -> None:
    ctx = await context(house)
    there = [True]

    async def program(_engine: str | None = None, /) -> LlamaProgram:
        return LlamaProgram(Path("/x"), "1", frozenset()) if there[0] else await no_program()

    ctx.program = program

    async def agree() -> float:
        shown = (await scrape(ctx))["magi_ready"][labels()]
        answer = await readyz(ctx, Call())
        assert (answer.status == 200) is (shown == 1)
        return shown

    assert await agree() == 1
    there[0] = False
    assert await agree() == 0
    there[0] = True
    assert await agree() == 1
    house.launcher.show(min(house.launcher.specs), ServerState.FAILED, "exit status 1")
    assert await agree() == 0


async def test_who_waits_is_counted(house: House) -> None:
    house.scans.shut()
    daemon = house.daemon()
    await daemon.open()
    ctx = Context(daemon, no_program, Dispatcher(daemon), house.tokens(), house.downloads(daemon))
    endpoint = find("POST", "/v1/chat/completions")
    assert endpoint is not None
    client = Deaf()
    asked = ParsedRequest(endpoint, b"{}", {}, ALPHA, "1", "somebody")
    exchange = ctx.gateway.send(asked, client)
    shown = await scrape(ctx)
    assert shown["magi_gateway_queue_length"] == {labels(queue="other"): 1}
    assert shown["magi_gateway_inflight_requests"][labels()] == 1
    exchange.cancel()
    shown = await scrape(ctx)
    assert shown["magi_gateway_queue_length"] == {labels(queue="other"): 0}
    key = labels(
        model="other", tier="none", path="/v1/chat/completions", route="none",
        outcome="cancelled", code="499",
    )  # fmt: skip
    assert shown["magi_gateway_requests_total"] == {key: 1}
    await ctx.gateway.close()


class Deaf:
    """A client that wants to hear nothing; implements `ResponseSink`."""

    def begins(self, head: ReplyHead, fields: bytes, data: bytes) -> None: ...

    def goes_on(self, data: bytes) -> None: ...

    def ends(self) -> None: ...

    def fails(self, error: MagidError, fields: bytes = b"") -> None: ...

    def breaks_off(self, error: MagidError, *, is_inside_chunk: bool) -> None: ...


def test_a_comment_of_a_stream_is_no_token() -> None:
    endpoint = find("POST", "/v1/chat/completions")
    assert endpoint is not None
    asked = ParsedRequest(endpoint, b"{}", {"stream": True}, ALPHA)
    route = ModelRoute(ALPHA, (), "", Tier.FAST)
    exchange = ForwardedRequest(
        asked, Deaf(), route, lambda _: False, lambda *_: None, lambda _: None
    )
    seen = []
    for chunk in (b"3\r\n:\n\n\r\n", b"a\r\ndata: {}\n\n\r\n", b"a\r\ndata: {}\n\n\r\n"):
        exchange.goes_on(chunk)
        seen.append(exchange.record.first_token_s)
    assert seen[0] is None
    assert seen[1] is not None
    assert seen[1] == seen[2]


async def alone_on(house: House, taken: socket.socket) -> tuple[Context, int]:
    """A daemon with one server, which is ready on the port of this socket."""
    port: int = taken.getsockname()[1]
    house.settings["port_range"] = (port, port)
    house.write_profile("test", f"name: Test\nenabled_models: ['{ALPHA}']\n")
    return await context(house), port


async def test_a_scrape_asks_no_server(house: House) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ctx, port = await alone_on(house, server)
        assert ctx.daemon.observed()[port].state is ServerState.READY
        shown = await scrape(ctx)
        assert shown["magi_server_state"][labels(model=ALPHA, port=str(port), state="ready")] == 1
        assert select.select([server], [], [], 0)[0] == [], "the scrape has connected to it"


async def test_a_program_that_took_the_port_is_not_shown_the_key(house: House) -> None:
    with socket.create_server(("127.0.0.1", 0)) as thief:
        ctx, port = await alone_on(house, thief)
        house.launcher.show(port, ServerState.READY, uid=os.geteuid() + 1)
        with pytest.raises(ServerUnreachable, match=f"another program has port {port}"):
            await get_server_metrics(ctx, Call(params={"modelId": ALPHA}))
        assert select.select([thief], [], [], 0)[0] == [], "it was connected to"


async def test_targets_are_scraped_through_magid(house: House) -> None:
    ctx = await context(house)
    port = next(p for p, s in house.launcher.specs.items() if s.model_id == BETA)
    await ctx.daemon.stop(BETA)
    answer = await discover(ctx, Call(host="magi.example:8000"))
    assert isinstance(answer, Reply)
    assert answer.headers == {}
    targets = targets_in(answer)
    assert [t["targets"] for t in targets] == [["magi.example:8000"]] * 2
    shown = {t["labels"]["model"]: t["labels"] for t in targets}
    assert BETA not in shown, f"it was stopped by hand: {port}"
    alpha = shown[ALPHA]
    assert alpha["__metrics_path__"] == f"/api/models/servers/{ALPHA}/metrics"
    assert alpha["__param_instance"] == "0"
    assert alpha["unit"] == f"llama-server@{alpha['port']}.service"
    assert alpha["tier"] == "fast"


async def test_who_asks_on_the_unix_socket_gets_an_address_that_can_be_scraped(
    house: House,
) -> None:
    ctx = await context(house)
    answer = await discover(ctx, Call())
    assert isinstance(answer, Reply)
    assert {t["targets"][0] for t in targets_in(answer)} == {"127.0.0.1:8000"}


def targets_in(answer: Reply) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(answer.body)
    return found
