"""Handlers for Prometheus: metrics of magid, metrics of each server, and scrape targets."""

import asyncio

from magid.api import views
from magid.api.context import Context
from magid.api.reply import Call, Reply, reply
from magid.api.schemas import servers as server_schemas
from magid.config.addresses import TcpAddress
from magid.errors import NotFound, ServerUnreachable
from magid.host.ports import HostPort
from magid.llama import client
from magid.servers.backend import ObservedServer, ServerState

# Less than the 10 s after which Prometheus gives up a scrape: so it gets an error with a reason.
TIMEOUT_S = 8.0
TEXT = "text/plain; version=0.0.4; charset=utf-8"  # the format of llama-server 0.7.0


async def get_metrics(ctx: Context, call: Call) -> Reply:
    """Figures of magid and its servers for Prometheus; no server is asked for them."""
    from magid.api import metrics_families, metrics_samples

    found = await metrics_samples.gather(ctx)
    # In a thread: rendering sixteen servers takes milliseconds, which must not delay streams.
    text, content_type = await asyncio.to_thread(metrics_families.render, found, call.accept)
    return Reply(text, content_type=content_type)


async def get_server_metrics(ctx: Context, call: Call) -> Reply:
    """What one llama-server itself tells Prometheus."""
    model_id = ctx.daemon.resolve_id(call.params["modelId"])
    server = _server_of(ctx, model_id, call.query.get("instance", 0))
    if server.state is not ServerState.READY:
        raise ServerUnreachable(
            f"cannot get metrics of {model_id!r}: {server.unit} {server.described}",
            modelId=model_id,
        )
    endpoint = HostPort(server.host, server.port)
    key = ctx.daemon.launcher.api_key(server.port)
    text = await client.get_metrics(endpoint, key=key, uid=server.uid, timeout_s=TIMEOUT_S)
    return Reply(text, content_type=TEXT)


def _server_of(ctx: Context, model_id: str, instance: int) -> ObservedServer:
    for server in ctx.daemon.observed().values():
        if server.model_id == model_id and server.instance == instance:
            return server
    raise NotFound(
        f"cannot get metrics of {model_id!r}: it has no server {instance}; "
        "GET /api/models/servers lists the servers there are",
        modelId=model_id,
    )


async def discover(ctx: Context, call: Call) -> Reply:
    """Every server as a target that is scraped through magid, for http_sd_configs."""
    daemon = ctx.daemon
    shown = views.server_list(daemon.snapshot, daemon.observed(), {}, 0.0)
    target = call.host or _own_address(ctx)
    scheme = "http" if ctx.daemon.config.tls_cert is None else "https"
    return reply([_target(target, scheme, server) for server in shown if _is_worth_it(server)])


def _own_address(ctx: Context) -> str:
    """Returns the target for requests on the unix socket: the first configured TCP address."""
    for address in ctx.daemon.config.addresses:
        if isinstance(address, TcpAddress):
            return str(HostPort(address.host, address.port))
    return "localhost"


def _is_worth_it(server: server_schemas.Server) -> bool:
    """Whether to scrape the server. A stopped or not yet requested one is no failed target."""
    return server["state"] != ServerState.STOPPED


def _target(
    address: str, scheme: str, server: server_schemas.Server
) -> server_schemas.ScrapeTarget:
    labels = {
        "__scheme__": scheme,
        "__metrics_path__": f"/api/models/servers/{server['modelId']}/metrics",
        "__param_instance": str(server["instance"]),
        "model": server["modelId"],
        "tier": str(server["tier"]),
        "port": str(server["port"]),
        "unit": server["unit"],
    }
    return {"targets": [address], "labels": labels}
