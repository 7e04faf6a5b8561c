"""Requests about downloads: one after another for each, and nothing is kept of them."""

import asyncio
import gc
from pathlib import Path

import pytest

from magid.config.settings import Config
from magid.errors import MagidError
from magid.launcher.download_request import DownloadRequest
from magid.launcher.downloading import DownloadUnits
from magid.launcher.transient_units import Units
from magid.library.source import ModelSource
from magid.systemd.bus import Bus


def locks() -> int:
    gc.collect()
    return sum(isinstance(one, asyncio.Lock) for one in gc.get_objects())


async def test_any_number_of_sources_takes_no_memory(tmp_path: Path) -> None:
    downloads = DownloadUnits(Units(Bus()))
    settings = Config(model_paths=(tmp_path,), library_path=tmp_path / "none")
    before = locks()
    for number in range(50):
        request = DownloadRequest("run", ModelSource(f"org/Repo{number}"))
        with pytest.raises(MagidError):
            await downloads.carry_out(request, lambda: settings)
    assert locks() <= before + 1
