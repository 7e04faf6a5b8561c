"""The table of metric families of /metrics, and its text; only importer of prometheus_client.

Each part keeps its figures as plain numbers, and `api.metrics_samples` reads them for a scrape. So
the library is imported at the first scrape, and no earlier count is lost.

Names follow Prometheus' conventions: base units, `_total` for counters, and no label whose values
a client could make up. The label `port` distinguishes servers of one model.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector


class Kind(StrEnum):
    """Type of a metric family."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"
    INFO = "info"  # always 1: its labels carry the information


@dataclass(frozen=True, slots=True)
class Family:
    """One metric family. `help` is shown in docs/metrics.md too."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Buckets:
    """A histogram's value: `counts` has one more entry than `bounds`, and is not cumulative."""

    bounds: Sequence[float]
    counts: Sequence[int]
    total: float


Value = float | Buckets
Labelled = tuple[Sequence[str], Value]
Samples = Mapping[str, Iterable[Labelled]]  # by the name of the family


def _gauge(name: str, text: str, *labels: str) -> Family:
    return Family(f"magi_{name}", Kind.GAUGE, text, labels)


def _counter(name: str, text: str, *labels: str) -> Family:
    return Family(f"magi_{name}", Kind.COUNTER, text, labels)


def _histogram(name: str, text: str, *labels: str) -> Family:
    return Family(f"magi_{name}", Kind.HISTOGRAM, text, labels)


def _info(name: str, text: str, *labels: str) -> Family:
    return Family(f"magi_{name}", Kind.INFO, text, labels)


_SERVER = ("model", "port")
_MODEL = ("model", "tier")

# fmt: off
FAMILIES: tuple[Family, ...] = (
    _info("build_info", "magid's version, and Python's", "version", "python"),
    _gauge("ready", "1 while /readyz answers 200"),
    _gauge("phase", "1 for the phase that magid is in", "phase"),
    _gauge("problems", "Problems that GET /api/models/status shows"),
    _gauge("config_last_reload_successful",
           "1 if the last scan went well and the active profile's file can be used as it is"),
    _info("profile_info", "The active profile", "profile"),
    _gauge("models", "Models that are known", "tier", "enabled"),
    _gauge("discovery_files",
           "Of the last scan: model, broken, pending (not read yet), missing (known from before)",
           "result"),
    _counter("discovery_scans_total", "Scans of the model folders", "result"),
    _gauge("discovery_last_scan_timestamp_seconds", "When the last good scan ended"),
    _gauge("discovery_last_scan_duration_seconds", "How long the last good scan took"),
    _counter("registry_writes_total", "Attempts to make the registry durable", "result"),
    _gauge("registry_last_write_timestamp_seconds", "When the registry was last made durable"),
    _gauge("state_filesystem_avail_bytes", "What magid can still write where its state is"),
    _gauge("state_filesystem_size_bytes", "Size of the file system where magid's state is"),
    _info("server_info", "A server: its systemd unit, and its number among those of its model",
          *_SERVER, "tier", "unit", "index"),
    _gauge("server_state", "1 for the state that the server is in", *_SERVER, "state"),
    _gauge("server_wanted", "1 if the server should run; one on demand, once it was asked for",
           *_SERVER),
    _counter("server_restarts_total",
             "Restarts after the server ended by itself; a start by hand sets it to 0",
             *_SERVER),
    _gauge("server_start_time_seconds", "When its process was started", *_SERVER),
    _gauge("server_load_seconds", "From the start of its process until it was ready", *_SERVER),
    _gauge("server_memory_bytes", "Memory that it uses, page cache of its unit included", *_SERVER),
    _counter("server_cpu_seconds_total", "Processor time that it has used", *_SERVER),
    _gauge("server_slots", "Requests that it works on at once", *_SERVER),
    _gauge("server_inflight_requests", "Requests of the gateway that it works on now", *_SERVER),
    _gauge("server_available", "1 while the gateway sends it requests", *_SERVER),
    _counter("gateway_requests_total",
             "Requests that have ended; code is the status, 499 where the client left before one",
             *_MODEL, "path", "route", "outcome", "code"),
    _counter("gateway_errors_total",
             "Errors that magid itself answered, those before a model was chosen included",
             "error", "code"),
    _gauge("gateway_inflight_requests", "Requests under way, those that wait included"),
    _gauge("gateway_queue_length", "Requests that wait for a model or a tier", "queue"),
    _gauge("gateway_queue_limit", "Requests that one queue takes"),
    _histogram("gateway_request_duration_seconds", "Of requests that went well, waiting included",
               *_MODEL, "path"),
    _histogram("gateway_time_to_first_token_seconds",
               "Of streams that went well, waiting included", *_MODEL),
    _histogram("gateway_queue_wait_seconds", "Until a request went to a server", *_MODEL),
    _histogram("gateway_tokens_per_second", "Of each answer, by the server's clock", *_MODEL),
    _counter("gateway_tokens_total", "Tokens read (prompt, cached ones included) and made (answer)",
             *_MODEL, "direction"),
    _counter("gateway_cached_prompt_tokens_total",
             "Tokens of prompts that a server still had in its cache", *_MODEL),
    _counter("gateway_draft_tokens_total", "Tokens that a model's draft has guessed", *_MODEL),
    _counter("gateway_accepted_draft_tokens_total",
             "Tokens that a model's draft has guessed rightly", *_MODEL),
    _counter("gateway_caller_requests_total",
             "Requests that reached a server, by the name of the caller's token", "token"),
    _counter("gateway_caller_tokens_total",
             "Tokens read (prompt) and made (answer), by the name of the caller's token",
             "token", "direction"),
    _counter("route_decisions_total",
             "Routes taken: why, the tier that was wanted, the tier that had a model for it",
             "reason", "from", "to"),
    _gauge("downloads", "Downloads, by their state", "state"),
    _gauge("download_bytes_per_second", "How fast all downloads together are, of late"),
    _gauge("gpu_memory_total_bytes", "Memory of a GPU, where its driver shows it (amdgpu)", "gpu"),
    _gauge("gpu_memory_used_bytes", "What of it is in use, by whomever", "gpu"),
    _gauge("gpu_device_total_bytes", "Memory of a GPU, as llama-server listed it last", "device"),
    _gauge("gpu_device_free_bytes", "What of it was free then", "device"),
    _gauge("gpu_device_room_bytes", "What magid would give one more server on it", "device"),
    _gauge("server_gpu_need_bytes", "What it was predicted to take on a GPU", *_SERVER, "device"),
    _gauge("server_off_gpu", "1 if some or all of it runs on the processor although there are GPUs",
           *_SERVER),
    _gauge("gpu_last_listing_timestamp_seconds", "When llama-server last listed the GPUs"),
    _counter("gpu_listings_total", "Lists of GPUs that llama-server was asked for", "result"),
    _gauge("events_listeners", "Clients of GET /api/events"),
    _counter("events_published_total", "Events sent to them"),
    _counter("events_listeners_dropped_total", "Clients that did not keep up and had to resync"),
)
# fmt: on


def render(samples: Samples, accept: str | None) -> tuple[bytes, str]:
    """Returns the text of a scrape and its content type, chosen by `Accept`. Takes milliseconds.

    May be called in any thread. Raises KeyError for a name that is not in FAMILIES.
    """
    from prometheus_client.exposition import choose_encoder

    try:
        encode, content_type = choose_encoder(accept or "")
    except (TypeError, ValueError):  # of a version that is no number: any form is right
        encode, content_type = choose_encoder("")
    return encode(_collector(samples)), content_type


def _collector(samples: Samples) -> "Collector":
    from prometheus_client.registry import Collector

    class Scrape(Collector):
        """One scrape: magid's own families, then those of every process."""

        def collect(self) -> "Iterator[Metric]":
            for name in samples.keys() - _BY_NAME.keys():
                raise KeyError(name)
            for family in FAMILIES:
                yield _metric(family, samples.get(family.name, ()))
            for other in _of_any_process():
                yield from other.collect()

    return Scrape()


_BY_NAME = {family.name: family for family in FAMILIES}


def _metric(family: Family, labelled: Iterable[Labelled]) -> "Metric":
    from prometheus_client import core

    metric: core.GaugeMetricFamily | core.CounterMetricFamily | core.InfoMetricFamily
    match family.kind:
        case Kind.HISTOGRAM:
            return _histogram_metric(family, labelled)
        case Kind.INFO:
            info = core.InfoMetricFamily(family.name.removesuffix("_info"), family.help)
            for labels, _ in labelled:
                info.add_metric([], dict(zip(family.labels, labels, strict=True)))
            return info
        case Kind.COUNTER:
            metric = core.CounterMetricFamily(family.name, family.help, labels=family.labels)
        case Kind.GAUGE:
            metric = core.GaugeMetricFamily(family.name, family.help, labels=family.labels)
    for labels, value in labelled:
        assert not isinstance(value, Buckets)
        metric.add_metric(labels, value)
    return metric


def _histogram_metric(family: Family, labelled: Iterable[Labelled]) -> "Metric":
    from prometheus_client import core

    metric = core.HistogramMetricFamily(family.name, family.help, labels=family.labels)
    for labels, value in labelled:
        assert isinstance(value, Buckets)
        metric.add_metric(labels, _cumulative(value), value.total)
    return metric


def _cumulative(value: Buckets) -> list[tuple[str, float]]:
    rows, sofar = [], 0
    for bound, count in zip((*map(str, value.bounds), "+Inf"), value.counts, strict=True):
        sofar += count
        rows.append((bound, float(sofar)))
    return rows


@cache
def _of_any_process() -> "tuple[Collector, ...]":
    """Returns the collectors of process_* and python_info."""
    from prometheus_client import PlatformCollector, ProcessCollector

    return ProcessCollector(registry=None), PlatformCollector(registry=None)
