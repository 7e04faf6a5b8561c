"""docs/gpus.md has every finding, condition and setting that is about GPUs."""

from pathlib import Path

import pytest

from magid.config.settings import Config
from magid.control.conditions import Code
from magid.llama.runtime_settings import SETTINGS
from tests.support import findings

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/gpus.md").read_text()
FINDINGS = sorted(
    findings.names("gpu*.py") | {one for one in findings.names() if one.startswith("rpc-")}
)
CONDITIONS = (Code.DOES_NOT_FIT, Code.OFF_GPU, Code.GPU_UNUSED, Code.DRAFT_UNUSED)
CONFIGURATION = ("gpu_reserve", "ctx_default_max", "rpc_servers")
MODELS = ("device", "offload", "nGpuLayers", "ctxSize", "draft", "engine", "memoryMax")


@pytest.mark.parametrize("name", FINDINGS)
def test_what_the_doctor_finds(name: str) -> None:
    rows = TEXT[TEXT.index("## What the doctor finds") :].splitlines()
    assert any(row.startswith("|") and f"`{name}`" in row.split("|")[1] for row in rows)


@pytest.mark.parametrize("code", CONDITIONS)
def test_conditions(code: Code) -> None:
    assert f"| `{code}` |" in TEXT


@pytest.mark.parametrize("name", [*CONFIGURATION, *MODELS])
def test_settings(name: str) -> None:
    known = {*Config.__struct_fields__, *(one.key for one in SETTINGS)}
    assert name in known
    assert f"| `{name}` |" in TEXT
