"""Predictions of real llama-servers, for tests."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from magid.gpus.memory_report import report_in
from magid.gpus.memory_table import Estimate, Need
from magid.llama.installed_program import InstalledProgram
from magid.llama.spec import ServerSpec
from magid.servers.processes.backend import ProcessBackend

_MIB = 1 << 20


@asynccontextmanager
async def open_backend(llama_server: Path, folder: Path) -> AsyncIterator[ProcessBackend]:
    made = ProcessBackend(folder / "keys", InstalledProgram(str(llama_server), os.environ["PATH"]))
    await made.open()
    yield made
    await made.close()


async def predicted(backend: ProcessBackend, spec: ServerSpec) -> Estimate:
    output = await backend.predict_memory(spec)
    report = report_in(output)
    assert report is not None, output
    assert report.estimate is not None, output
    return report.estimate


def kinds_of(need: Need) -> dict[str, int]:
    """In MiB, as a fake GPU tells what it holds."""
    figures = {"weights": need.model, "context": need.context, "compute": need.compute}
    return {kind: size // _MIB for kind, size in figures.items()}
