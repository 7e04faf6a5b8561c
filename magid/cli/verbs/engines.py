"""engine: llama-servers side by side, and which of them is used."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from magid.cli.client import MODELS, Client, Refused, quoted
from magid.cli.errors import each
from magid.cli.interaction import confirmed
from magid.cli.model_names import named
from magid.cli.output import note, print_json, say, table
from magid.cli.parser import Verbs
from magid.cli.verbs.settings import EXAMPLE, changed

if TYPE_CHECKING:  # the others are imported when an engine is changed
    from magid.config.settings import Config
    from magid.library.engine_store import Tried

T = TypeVar("T")
_SYSTEM = "system"
_DEFAULT = "default"
_BOOTED = Path("/run/systemd/system")  # sd_booted(3)


def add(verbs: Verbs) -> None:
    group = verbs.group("engine", "engines: llama-servers side by side, and which one is used")
    sub = group.add(
        "add", add_engine, "unpack a llama-server, try it in the sandbox of models, and keep it",
        examples=("sudo magictl engine add vulkan llama-b9999-bin-ubuntu-vulkan-x64.tar.gz",
                  "sudo magictl engine add cuda /srv/llama.cpp/build/bin",
                  "sudo magictl engine add own build/bin/llama-server"),
    )  # fmt: skip
    sub.add_argument("name", metavar="NAME", help="a-z, 0-9, '.', '_' and '-'")
    sub.add_argument("source", metavar="PATH", help="a tar archive, a folder, or the program alone")
    sub.add_argument("--sha256", default="", metavar="HEX", help="what the archive has to have")
    group.add(
        "ls", ls, "all engines, and which one is used", aliases=("list",),
        examples=("magictl engine ls", "magictl engine ls --json"),
    )  # fmt: skip
    sub = group.add(
        "use", use, "run servers with this engine from their next start on",
        examples=("sudo magictl engine use vulkan", "sudo magictl engine use system",
                  f"magictl engine use vulkan {EXAMPLE}"),
    )  # fmt: skip
    sub.add_argument("name", metavar="NAME", help="`system`: the llama-server of this system; "
                     "`default`: for a model, the engine of all models")  # fmt: skip
    sub.add_argument("models", nargs="*", metavar="MODEL",
                     help="these models alone; else all that have none of their own")  # fmt: skip
    sub = group.add(
        "rm", remove, "remove an engine that nothing uses", aliases=("remove",), json="",
        examples=("sudo magictl engine rm vulkan", "sudo magictl engine rm vulkan --yes"),
    )  # fmt: skip
    sub.add_argument("name", metavar="NAME")
    sub.add_argument("-y", "--yes", action="store_true", help="do not ask")


def _settings() -> "Config":
    from magid.config import loading

    return _or_refused(lambda: loading.load({}, os.environ).config)


def _or_refused(do: Callable[[], T]) -> T:
    from magid.errors import MagidError

    try:
        return do()
    except MagidError as error:
        what, _, why = error.message.partition(": ")
        raise Refused(f"{what}\n{why}") from None


def add_engine(_client: Client, args: argparse.Namespace) -> int:
    """Blocks for as long as the files take, and up to 45 s for the trial."""
    from magid.library import engine_store

    settings = _settings()
    made = _or_refused(
        lambda: engine_store.add(
            settings.engines_dir, args.name, Path(args.source), _try_with(settings), args.sha256
        )
    )
    if args.json:
        print_json(_as_json(made, None, []))
        return 0
    gpus = ", ".join(made.gpus) or "no GPU"
    say(f"engine {made.name} added: llama-server {made.version}, which finds {gpus}")
    note(f"to use it: magictl engine use {made.name}")
    return 0


def _try_with(settings: "Config") -> "Callable[[Path], Tried]":
    """In a unit with the sandbox of models; as a process where systemd runs no services.

    Root's process has no right that root has: see `standalone/drop_rights`.
    """

    def in_sandbox(program: Path) -> "Tried":
        from magid.doctor.collect.commands import CannotCollect
        from magid.doctor.collect.sandbox_trial import program_trial
        from magid.library.engine_store import Tried

        try:
            found = program_trial(settings, program)
        except CannotCollect as error:
            return Tried(problem=str(error))
        problem = found.problem
        if not problem and not {"--model", "--port"} <= found.flags:
            problem = "its --help does not list llama-server's options"
        return Tried(found.version, tuple(gpu.device.name for gpu in found.gpus), problem)

    def alone(program: Path) -> "Tried":
        import asyncio
        import sys

        from magid.errors import LlamaServerMissing
        from magid.library.engine_store import Tried
        from magid.llama.program import probe
        from magid.standalone import SCRIPTS

        script = (sys.executable, "-I", "-S", str(SCRIPTS / "drop_rights.py"))
        through = script if os.geteuid() == 0 else ()
        try:
            return Tried(asyncio.run(probe(program, through=through)).version)
        except LlamaServerMissing as error:
            return Tried(problem=error.message.partition(": ")[2])

    return in_sandbox if _BOOTED.is_dir() and os.geteuid() == 0 else alone


def ls(client: Client, args: argparse.Namespace) -> int:
    from magid.library import engine_store
    from magid.llama import engines

    settings = _settings()
    found, used = engine_store.listed(settings.engines_dir), _used(settings)
    models = _models_with(client, settings) if found else {}
    if args.json:
        print_json([_as_json(one, used, models.get(one.name, [])) for one in found])
        return 0
    rows = [
        ["*" if one.name == used else "", one.name, one.version, " ".join(one.gpus) or "-",
         " ".join(models.get(one.name, [])) or "-", one.source]
        for one in found
    ]  # fmt: skip
    table(["", "ENGINE", "VERSION", "GPUS", "MODELS", "SOURCE"], rows, "there are no engines")
    if settings.llama_server_path and engines.default_engine(settings.engines_dir):
        note("llama_server_path in magid.yaml is set, and comes before all engines")
    elif used is None:
        note("the llama-server of this system is used; magictl engine use NAME changes that")
    return 0


def _used(settings: "Config") -> str | None:
    from magid.llama import engines

    return None if settings.llama_server_path else engines.default_engine(settings.engines_dir)


def _as_json(engine: Any, used: str | None, models: list[str]) -> dict[str, Any]:
    return {
        "name": engine.name, "version": engine.version, "used": engine.name == used,
        "models": models, "gpus": list(engine.gpus), "source": engine.source,
        "sha256": engine.sha256 or None, "addedAt": engine.added_at,
    }  # fmt: skip


def use(client: Client, args: argparse.Namespace) -> int:
    """Changes one link, or the setting of these models. Servers that run go on as they are."""
    from magid.library import engine_store

    if args.models:
        return _use_for(client, args)
    settings = _settings()
    if settings.llama_server_path and args.name != _SYSTEM:
        raise Refused(
            f"cannot use engine {args.name!r}\nllama_server_path in magid.yaml names another "
            "llama-server, which comes before all engines\ntry: remove it there, then "
            "systemctl restart magid"
        )
    name = None if args.name == _SYSTEM else args.name
    _or_refused(lambda: engine_store.use(settings.engines_dir, name))
    if args.json:
        print_json({"used": name})
        return 0
    which = f"engine {name}" if name else "the llama-server of this system"
    say(f"{which} is used from the next start of each server on")
    try:
        client.call("POST", "/api/gpus/refresh")
    except Refused:
        note("magid does not answer: it takes the change up when it starts")
    note("what runs goes on with the one before; magictl restart MODEL changes it")
    return 0


def _use_for(client: Client, args: argparse.Namespace) -> int:
    wanted = {"engine": None if args.name == _DEFAULT else args.name}

    def one(model: str) -> None:
        path = f"{MODELS}/{quoted(model)}/runtime-settings"
        changed(args, client.call("PUT", path, wanted))

    return each(client, args.models, named(client, one))


def _models_with(client: Client, settings: "Config") -> dict[str, list[str]]:
    """Returns engine -> the models that have been given it, also where magid does not answer."""
    try:
        models = client.call("GET", f"{MODELS}/registry")["models"].items()
        given = [(model_id, model["engine"]) for model_id, model in models]
    except Refused:
        from magid.catalog import registry
        from magid.files import document

        stored: list[registry.Registry] = []
        document.why_unusable(
            settings.registry_path, lambda content: stored.append(registry.parse(content))
        )
        entries = [entry for one in stored for entry in one.models.values()]
        given = [(entry.model_id, entry.settings.get("engine")) for entry in entries]
        given.append(("server_defaults in magid.yaml", settings.server_defaults.engine))
    found: dict[str, list[str]] = {}
    for model_id, engine in sorted(given):
        if engine is not None:
            found.setdefault(engine, []).append(model_id)
    return found


def remove(client: Client, args: argparse.Namespace) -> int:
    from magid.library import engine_store

    settings = _settings()
    models = _models_with(client, settings).get(args.name, [])
    confirmed(f"remove engine {args.name}", yes=args.yes)
    _or_refused(lambda: engine_store.remove(settings.engines_dir, args.name, models))
    say(f"engine {args.name} removed")
    return 0
