"""Values for tests of pure functions: a model found on disk, a spec, an observed server."""

from datetime import UTC, datetime
from typing import Any

from msgspec.structs import replace

from magid.catalog.registry import Merge, Registry, merge_scan
from magid.discovery.abilities import ModelAbilities
from magid.discovery.found import FoundModel
from magid.discovery.kinds import ModelKind
from magid.discovery.model_shape import ModelShape
from magid.discovery.naming import ModelName
from magid.discovery.tiers import ThinkingMode, Tier
from magid.llama.placement import PlacedDevice, Placement
from magid.llama.spec import ServerSpec
from magid.servers.backend import ObservedServer, ServerState

NOW = datetime(2026, 1, 2, 10, 30, tzinfo=UTC)
FULL_SPEC = ServerSpec(
    model_id="demo_8p0b_q4km_balanced",
    instance=1,
    port=8081,
    host="127.0.0.1",
    model_path="/models/Demo 8B (1).gguf",
    mmproj_path="/models/mmproj-Demo.gguf",
    kind="chat",
    n_gpu_layers=-1,
    ctx_size=4096,
    n_threads=8,
    batch_size=512,
    parallel=4,
    extra_args=("--temp", "0.7"),
    memory_max=2**33,
    cpu_quota=250,
    stamp="0123456789abcdef",
)

PLACEMENT = Placement(
    devices=(PlacedDevice("RPC0", "RPC0", 2**31), PlacedDevice("RPC1", "RPC1", 2**30)),
    host=2**28,
    extent="all",
    pins_devices=True,
    n_gpu_layers=999,
    ctx_size=8192,
    shares=(667, 333),
)
UUIDS = ("GPU-01234567-0123-0123-0123-0123456789ab", "MIG-11234567-0123-0123-0123-0123456789ab")


def found(base_id: str, path: str = "", **changes: Any) -> FoundModel:
    """A model of 4 billion parameters at /models/BASE_ID.gguf, unless told otherwise."""
    path = path or f"/models/{base_id}.gguf"
    model = FoundModel(
        path=path,
        filename=path.rpartition("/")[2],
        files=(path,),
        companions=(),
        kind=ModelKind.CHAT,
        name=ModelName("demo", None, None, 4.0, "q4_k_m", is_instruct=False, is_coder=False),
        display_name="DEMO 4.0B Q4_K_M",
        architecture="llama",
        context_length=4096,
        parameter_count=4_000_000_000,
        active_parameter_count=4_000_000_000,
        size_bytes=1000,
        bits_per_weight=4.5,
        thinking_mode=ThinkingMode.NONE,
        thinking_evidence="no thinking marker",
        abilities=ModelAbilities(),
        tier=Tier.FAST,
        base_id=base_id,
        shape=ModelShape(),
        stamp="s1",
    )
    return replace(model, **changes)


def merged(*models: FoundModel, registry: Registry | None = None, **changes: Any) -> Merge:
    """These models after one scan."""
    from datetime import timedelta

    options: dict[str, Any] = {"now": NOW, "keep": timedelta(days=90), **changes}
    return merge_scan(registry or Registry(), models, **options)


def spec(model_id: str = "a", port: int = 8080, **changes: Any) -> ServerSpec:
    path = f"/models/{model_id}.gguf"
    fields = {"instance": 0, "host": "127.0.0.1", "model_path": path, "stamp": "s1", **changes}
    return ServerSpec(**{"model_id": model_id, "port": port, **fields})


def observed(of: ServerSpec, state: ServerState, **changes: Any) -> ObservedServer:
    server = ObservedServer(of.port, of.model_id, of.instance, of.hash, state)
    return replace(server, **changes)


# The documented example of the first clients.
EXAMPLE_PROFILE: dict[str, Any] = {
    "name": "Development",
    "description": "Fast iteration with small models",
    "enabledModels": ["qwen3_4p0b_q4km_fast"],
    "tierConfig": [
        {
            "name": "fast",
            "maxScore": 3.0,
            "expectedTimeSeconds": 2,
            "description": "Fast processing for simple queries",
        }
    ],
    "twoStage": {
        "enabled": False,
        "stage1Tier": "balanced",
        "stage2Tier": "powerful",
        "stage1MaxTokens": 500,
    },
    "loadBalancing": {
        "enabled": True,
        "strategy": "round_robin",
        "healthCheckInterval": 30,
        "weights": {},  # added since, as aliases
    },
    "aliases": {},
}
