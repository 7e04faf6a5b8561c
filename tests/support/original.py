"""Files as the original program writes them."""

import json
from typing import Any

DEVELOPMENT = """\
profile:
  name: "Development"
  description: "Fast iteration with small models"

enabled_models:
  - qwen3_4p0b_q4km_fast
  - deepseek_r10528qwen3_8p0b_q4km_powerful

tier_config:
  - name: "fast"
    max_score: 5.0
    expected_time_seconds: 2
    description: "Fast processing for simple queries"
  - name: "powerful"
    max_score: .inf
    expected_time_seconds: 10
    description: null

two_stage:
  enabled: true
  stage1_tier: "fast"
  stage2_tier: "powerful"
  stage1_max_tokens: 500

load_balancing:
  enabled: false
  strategy: "round_robin"
  health_check_interval: 30
"""


def entry(model_id: str, path: str, **more: Any) -> dict[str, Any]:
    """A model as its registry has it; nothing is decided but its port, which it gives to each."""
    return {
        "file_path": path,
        "filename": path.rpartition("/")[2],
        "family": model_id.split("_")[0],
        "version": None,
        "size_params": 4.0,
        "quantization": "q4_k_m",
        "is_thinking_model": False,
        "thinking_override": None,
        "is_instruct": False,
        "is_coder": False,
        "assigned_tier": "fast",
        "tier_override": None,
        "port": 8080,
        "enabled": False,
        "n_gpu_layers": None,
        "ctx_size": None,
        "n_threads": None,
        "batch_size": None,
        "model_id": model_id,
        **more,
    }


def as_registry(*entries: dict[str, Any], **more: Any) -> bytes:
    """The file model_registry.json."""
    document = {
        "models": {one["model_id"]: one for one in entries},
        "scan_path": "/models",
        "last_scan": "2025-11-10T04:54:06.121844",
        "port_range": [8080, 8099],
        "tier_thresholds": {"powerful_min": 14.0, "fast_max": 7.0},
        **more,
    }
    return json.dumps(document, indent=2).encode()


PROGRAM: dict[str, str | bytes] = {
    "backend/data/model_registry.json": as_registry(
        entry("qwen3_4p0b_q4km_fast", "/models/models--x/snapshots/1/Qwen3-4B-Q4_K_M.gguf",
              port=8081, tier_override="balanced", ctx_size=1024),
        entry("gpt_oss_20p0b_q4km_powerful", "/models/gpt-oss-20b-Q4_K_M.gguf", port=8080),
    ),
    "config/profiles/development.yaml": DEVELOPMENT,
}  # fmt: skip
"""Its folder: path -> content."""
