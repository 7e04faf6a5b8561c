"""What counting costs a request, and what a scrape costs; `python -m` this module.

Counting is held against the request's own life in the gateway's records (`records.of`, `begin`,
`end`), which every request has. A scrape is of 1,000 models and sixteen servers, each of which
has answered in every way there is; it is held against the same figures kept and written by
prometheus_client's own metrics (without process_*), and its part on the event loop is shown apart.
"""

import asyncio
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from magid.api import metrics_families, metrics_samples
from magid.api.context import Context
from magid.api.metrics_families import Kind, Labelled
from magid.discovery.tiers import Tier
from magid.errors import LlamaServerMissing
from magid.gateway.accounting.request_log import Outcome, Record, Records, of
from magid.gateway.accounting.statistics import RequestStatistics
from magid.gateway.accounting.token_usage import UsageStore
from magid.gateway.dispatcher import Dispatcher
from magid.gateway.routing.endpoints import find
from magid.gateway.routing.request import ParsedRequest
from magid.gateway.routing.resolver import ModelRoute, Reason
from magid.llama.program import LlamaProgram
from tests.bench.bench_gguf import cpu
from tests.support import ggufs
from tests.support.daemons import House

MODELS, SERVERS = 1000, 16
ROUNDS, REQUESTS, SCRAPES = 15, 6400, 15
FIGURES = (
    b'"usage":{"completion_tokens":20,"prompt_tokens":100,"total_tokens":120,'
    b'"prompt_tokens_details":{"cached_tokens":60}},"timings":{"cache_n":60,"prompt_n":40,'
    b'"prompt_ms":10.02,"prompt_per_token_ms":0.25,"prompt_per_second":3991.2,"predicted_n":20,'
    b'"predicted_ms":500.1,"predicted_per_token_ms":25.0,"predicted_per_second":40.0}}'
)


def ended(asked: ParsedRequest, model: str) -> Record:
    record = of(asked)
    record.model_id, record.port, record.tier, record.status = model, 8080, "fast", 200
    record.outcome, record.sent_s, record.first_byte_s = Outcome.OK, 0.001, 0.2
    record.first_token_s, record.duration_s, record.figures = 0.3, 0.7, FIGURES
    return record


def counting() -> None:
    endpoint = find("POST", "/v1/chat/completions")
    assert endpoint is not None
    asked = ParsedRequest(endpoint, b"{}", {"stream": True}, "m", "1")
    route = ModelRoute("m", (), "model", Tier.FAST, reason=Reason.MODEL)
    records, statistics = Records(), RequestStatistics(lambda _: True, UsageStore(Path("usage")))
    given = [ended(asked, "m") for _ in range(REQUESTS)]

    def life() -> None:
        for _ in range(REQUESTS):
            record = of(asked)
            records.begin(record)
            records.end(record, Outcome.OK)

    def keep_only() -> None:
        """Every one but those at which a batch is counted."""
        for at in range(0, REQUESTS, 64):
            for record in given[at : at + 63]:
                statistics.add(record, route)
            statistics._new.clear()

    def count() -> None:
        for record in given:
            statistics.add(record, route)

    rounds = [[timed(work) / REQUESTS for work in (life, keep_only, count)] for _ in range(ROUNDS)]
    base, kept, all_of_it = (1e6 * median(column) for column in zip(*rounds, strict=True))
    print(
        f"as a request ends: {kept / base:.2f}x its record ({kept:.2f} us beside {base:.2f} us)\n"
        f"with its share of counting: {all_of_it / base:.2f}x ({all_of_it:.2f} us)"
    )


def timed(work: Callable[[], object]) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start


async def no_program(_engine: str | None = None, /) -> LlamaProgram:
    raise LlamaServerMissing("cannot find llama-server")


async def scrapes() -> None:
    with tempfile.TemporaryDirectory() as folder:
        house = House(Path(folder))
        house.settings["port_range"] = (9000, 9000 + SERVERS)
        for number in range(MODELS - 3):
            ggufs.write_sparse_model(
                house.models / f"M{number:03}x-1B-Q4_K_M.gguf", parameters_billions=1
            )
        house.write_profile("test", "name: Test\nenabled_models: ['m00*', 'm010*', 'm011*',"
                            " 'm012*', 'm013*', 'm014*', 'm015*']\n")  # fmt: skip
        daemon = await house.running()
        ctx = Context(
            daemon, no_program, Dispatcher(daemon), house.tokens(), house.downloads(daemon)
        )
        fill(ctx)
        await compare(ctx)
        await house.close()


def fill(ctx: Context) -> None:
    endpoint = find("POST", "/v1/chat/completions")
    assert endpoint is not None
    asked = ParsedRequest(endpoint, b"{}", {"stream": True}, "m", "1")
    for server in ctx.daemon.observed().values():
        for reason in Reason:
            for outcome in Outcome:
                for status in (200, 400, 500):
                    record = ended(asked, server.model_id)
                    record.outcome, record.status = outcome, status
                    ctx.gateway.statistics.add(
                        record, ModelRoute(server.model_id, (), "", Tier.FAST, reason=reason)
                    )


async def compare(ctx: Context) -> None:
    found = await metrics_samples.gather(ctx)
    theirs = registry_of(found)
    ours_s, theirs_s, loop_s = [], [], []
    size = lines = 0
    for _ in range(SCRAPES):
        start = perf_counter()
        found = await metrics_samples.gather(ctx)
        gathered = perf_counter()
        text, _ = metrics_families.render(found, None)
        ours_s.append(perf_counter() - start)
        loop_s.append(gathered - start)
        size, lines = len(text), text.count(b"\n")
        theirs_s.append(timed(lambda: generate_latest(theirs)))
    ratio = median(a / b for a, b in zip(ours_s, theirs_s, strict=True))
    print(
        f"scrape of {len(ctx.daemon.snapshot.models)} models and {len(ctx.daemon.observed())} "
        f"servers: {size >> 10} KiB, {lines} lines\n"
        f"whole: {ratio:.2f}x of prometheus_client's own metrics ({1000 * median(ours_s):.1f} ms "
        f"beside {1000 * median(theirs_s):.1f} ms)\n"
        f"on the event loop: {median(loop_s) / median(ours_s):.2f} of it "
        f"({1000 * median(loop_s):.2f} ms)"
    )


def registry_of(found: dict[str, list[Labelled]]) -> CollectorRegistry:
    """The same series in prometheus_client's metrics."""
    registry = CollectorRegistry()
    for family in metrics_families.FAMILIES:
        name, labels = family.name, family.labels
        for values, _ in found.get(family.name, ()):
            metric: Counter | Gauge | Histogram
            known = getattr(registry, "_names_to_collectors").get(name)  # noqa: B009
            match family.kind:
                case Kind.HISTOGRAM:
                    metric = known or Histogram(name, family.help, labels, registry=registry)
                case Kind.COUNTER:
                    metric = known or Counter(name, family.help, labels, registry=registry)
                case Kind.GAUGE | Kind.INFO:
                    metric = known or Gauge(name, family.help, labels, registry=registry)
            if labels:
                metric.labels(*values)
    return registry


def main() -> int:
    print(f"# {cpu()}, Python {platform.python_version()}; medians")
    counting()
    asyncio.run(scrapes())
    return 0


if __name__ == "__main__":
    sys.exit(main())
