"""GPUs of any size for tests, behind the real llama-server; see `fake_gpu`."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import fake_gpu
from tests.support.deadlines import DEADLINE_S


@dataclass(frozen=True, slots=True)
class FakeGpu:
    """One running fake. Sizes in MiB."""

    process: "subprocess.Popen[str]"
    address: str

    def use(self, mib: int) -> None:
        """From now on other programs hold so much."""
        self._ask({"used": mib})

    def hide(self, mib: int) -> None:
        """From now on so much less can be allocated than it says is free."""
        self._ask({"hidden": mib})

    def memory(self) -> dict[str, int]:
        """Its own account: total, others, used by llama-servers, free, and refused allocations.

        What llama-servers use is also there by its kinds; see `held`.
        """
        said = self._ask({})
        return {k: n if k == "refused" else n // fake_gpu.MIB for k, n in said.items()}

    def held(self) -> dict[str, int]:
        """What llama-servers use for weights, context and compute."""
        memory = self.memory()
        return {kind: memory[kind] for kind in fake_gpu.KINDS}

    def _ask(self, question: object) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{json.dumps(question)}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@dataclass(frozen=True, slots=True)
class Gpus:
    """Fakes, and a llama-server that sees them as RPC0, RPC1 and so on."""

    llama_server: Path
    fakes: tuple[FakeGpu, ...]


MakeGpus = Callable[..., Gpus]


@contextmanager
def fake_gpus(
    program: Path, folder: Path, sizes: Sequence[tuple[int, int]], *, hollow: bool = False
) -> Iterator[Gpus]:
    """Runs one fake for each (total, used by others); `program` is `llama_server_with_rpc`."""
    server = program.with_name("ggml-rpc-server")
    with ExitStack() as held:
        fakes = tuple(
            held.enter_context(running_fake(server, *size, hollow=hollow)) for size in sizes
        )
        wrapper = folder / "llama-server"
        # --rpc has to be first: options act in order, and --list-devices is one.
        addresses = ",".join(fake.address for fake in fakes)
        wrapper.write_text(f'#!/bin/sh\nexec "{program}" --rpc {addresses} "$@"\n')
        wrapper.chmod(0o755)
        yield Gpus(wrapper, fakes)


@contextmanager
def running_fake(
    server: Path, total: int, used: int, port: int = 0, *, hollow: bool = False
) -> Iterator[FakeGpu]:
    sizes = [str(number) for number in (total, used, port)]
    command = [sys.executable, "-I", "-S", fake_gpu.__file__, str(server), *sizes]
    command += ["hollow"] * hollow
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            port = json.loads(process.stdout.readline())["port"]
            yield FakeGpu(process, f"127.0.0.1:{port}")
        finally:
            assert process.stdin is not None
            process.stdin.close()  # it ends with its input
            try:
                process.wait(DEADLINE_S)
            finally:
                process.kill()
