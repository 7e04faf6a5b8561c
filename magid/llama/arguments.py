"""Builds llama-server's arguments and environment. Pure.

The list goes to execve or to systemd unchanged; no shell reads it. Arguments from users are checked
against the table in `options`.

Source of the option names: `llama-server --help` of llama.cpp 0.7.0 (build 11669), with the older
spellings of options that were renamed.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from magid.errors import InvalidInput, LlamaServerMissing
from magid.llama.options import check_extra_args, is_option
from magid.llama.placement import Placement, environment_of, options_of
from magid.llama.runtime_settings import SERVER_SETTINGS
from magid.llama.spec import ServerSpec

# The variables that a server inherits from magid: programs and home folder, language, time zone,
# and GPUs. None that loads code (LD_*, GGML_BACKEND_PATH), and none of llama-server's own
# (LLAMA_ARG_*, LLAMA_SERVER_ROUTER_PORT), because each of those is equal to an option.
_PASSED_ENVIRONMENT = frozenset(
    {
        "PATH",
        "HOME",
        "LANG",
        "LC_ALL",
        "LC_CTYPE",
        "TZ",
        "CUDA_VISIBLE_DEVICES",
        "CUDA_DEVICE_ORDER",
        "NVIDIA_VISIBLE_DEVICES",
        "HIP_VISIBLE_DEVICES",
        "ROCR_VISIBLE_DEVICES",
        "HSA_OVERRIDE_GFX_VERSION",
        "GGML_VK_VISIBLE_DEVICES",
        "ONEAPI_DEVICE_SELECTOR",
        "ZE_AFFINITY_MASK",
    }
)

ALL_LAYERS: Final = 999
_FIT: Final = ("--fit", "-fit")
_DRAFT_MODEL: Final = ("--spec-draft-model", "--model-draft")


def server_argv(
    spec: ServerSpec,
    program: str,
    api_key_file: str,
    flags: frozenset[str],
    placement: Placement | None = None,
) -> list[str]:
    """Returns the argument list for `spec`.

    With a placement that rests on a prediction, llama-server may not look for settings that fit by
    itself: what was decided happens, or the start fails.

    `flags` are the options that the installed program has. magid's own options are left out if the
    program lacks them, except `--api-key-file`: without it anyone could use the server, so this
    raises LlamaServerMissing. A user's setting is never dropped silently: raises InvalidInput if
    the program lacks its option.
    """
    if "--api-key-file" not in flags:
        raise LlamaServerMissing(
            f"cannot use {program}: it does not know --api-key-file, so anyone could use its "
            "servers; install a llama-server from 2024 or later",
            program=program,
        )
    return [
        *_model_argv(spec, program, flags),
        *("--host", spec.host, "--port", str(spec.port)),
        *("--api-key-file", api_key_file),
        *_decided_argv(spec, flags, placement),
    ]


def prediction_argv(
    spec: ServerSpec, program: str, flags: frozenset[str], placement: Placement | None = None
) -> list[str]:
    """Returns the arguments with which llama-server predicts the memory of this server.

    They are the server's own, but for its address and key, which the caller appends or leaves out.
    All layers count for the devices unless the spec or the placement says otherwise. What follows
    the user's own arguments wins over them. Raises InvalidInput as `server_argv` does.
    """
    layers = options_of(placement).get("n_gpu_layers", spec.n_gpu_layers)
    return [
        *_model_argv(spec, program, flags),
        *_decided_argv(spec, flags, placement),
        *(() if layers is not None else ("-ngl", str(ALL_LAYERS))),
        *("--fit", "on", "-lv", "4"),
        *_when_known(flags, ("--no-warmup",)),
    ]


def _model_argv(spec: ServerSpec, program: str, flags: frozenset[str]) -> list[str]:
    own = [program, "--model", spec.model_path, "--alias", spec.model_id, *_lora_argv(spec, flags)]
    if spec.draft_type is None:
        return own
    if why := why_undrafted(spec, flags):
        if spec.draft != "auto":
            raise InvalidInput(f"cannot use draft: {why}; clear one setting", field="draft")
        return own
    return [*own, *_draft_argv(spec, flags)]


def _lora_argv(spec: ServerSpec, flags: frozenset[str]) -> list[str]:
    """With scale 0 no request has an adapter that it does not choose.

    `--lora-init-without-apply` does not do that: with it llama-server 0.7.0 applies all of them.
    """
    if not spec.lora_paths or "--lora-scaled" not in flags:
        return []
    return ["--lora-scaled", ",".join(f"{path}:0" for path in spec.lora_paths)]


def why_undrafted(spec: ServerSpec, flags: frozenset[str]) -> str:
    """Returns why a server with these options cannot use its draft; "" if it can."""
    if "--spec-type" in options_in(spec.extra_args):
        return "extraArgs has --spec-type"
    kind = f"--spec-type=draft-{spec.draft_type}"
    if kind not in flags and not (spec.draft_type == "simple" and "--spec-type" not in flags):
        return f"this llama-server does not know {kind.replace('=', ' ')}"
    if spec.draft_path is not None and flags.isdisjoint(_DRAFT_MODEL):
        return f"this llama-server does not know {_DRAFT_MODEL[0]}"
    return ""


def _draft_argv(spec: ServerSpec, flags: frozenset[str]) -> list[str]:
    kind = f"draft-{spec.draft_type}"
    argv = ["--spec-type", kind] if f"--spec-type={kind}" in flags else []
    if spec.draft_path is not None:
        argv += [next(name for name in _DRAFT_MODEL if name in flags), spec.draft_path]
    return argv


def _decided_argv(
    spec: ServerSpec, flags: frozenset[str], placement: Placement | None
) -> list[str]:
    return [
        *_when_known(flags, ("--metrics",)),
        *_when_known(flags, ("--no-ui",), ("--no-webui",)),
        *_when_known(flags, ("--offline",)),
        *_when_known(flags, ("--cors-origins", "localhost")),
        *_kind_argv(spec, flags),
        *_remote_argv(flags, placement),
        *_settings_argv(spec, flags, placement),
        *_placement_argv(spec, flags, placement),
        *_extra_argv(spec.extra_args, flags),
    ]


def _when_known(flags: frozenset[str], *choices: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the first choice that the program knows, or nothing."""
    return next((choice for choice in choices if choice[0] in flags), ())


def _required(setting: str, flags: frozenset[str], *names: str) -> str:
    for name in names:
        if name in flags:
            return name
    raise InvalidInput(
        f"cannot use {setting}: this llama-server does not know {names[0]}; "
        "install a newer llama-server or clear the setting",
        field=setting,
        argument=names[0],
    )


def _kind_argv(spec: ServerSpec, flags: frozenset[str]) -> list[str]:
    match spec.kind:
        case "embedding":
            return [_required("kind embedding", flags, "--embeddings", "--embedding")]
        case "reranker":
            return [_required("kind reranker", flags, "--reranking", "--rerank")]
        case _:
            return []


def _settings_argv(
    spec: ServerSpec, flags: frozenset[str], placement: Placement | None
) -> list[str]:
    placed = options_of(placement)
    argv: list[str] = []
    if spec.mmproj_path is not None:
        argv += [_required("mmproj", flags, "--mmproj"), spec.mmproj_path]
    for setting in SERVER_SETTINGS:
        value = placed.get(setting.name, getattr(spec, setting.name))
        if setting.options and value is not None:
            argv += [_required(setting.key, flags, *setting.options), str(value)]
    return argv


def _remote_argv(flags: frozenset[str], placement: Placement | None) -> tuple[str, ...]:
    """Names the RPC servers. Options act in order, so it comes before `--device`."""
    if placement is None or not placement.remote:
        return ()
    return (_required("rpc_servers", flags, "--rpc"), ",".join(placement.remote))


def _placement_argv(
    spec: ServerSpec, flags: frozenset[str], placement: Placement | None
) -> tuple[str, ...]:
    if placement is None:
        return ()
    cache = ("--cache-ram", str(placement.cache_ram))
    bound = () if placement.cache_ram is None else _when_known(flags, cache)
    if placement.source == "unknown":
        return bound
    shares = ",".join(map(str, placement.shares))
    split = (_required("device", flags, "--tensor-split"), shares) if shares else ()
    if placement.fit_target is not None:
        target = str(placement.fit_target)
        return (*bound, "--fit", "on", _required("offload", flags, "--fit-target"), target)
    is_fitted = not options_in(spec.extra_args).isdisjoint(_FIT)
    return (*bound, *split, *(() if is_fitted else _when_known(flags, ("--fit", "off"))))


def options_in(args: Sequence[str]) -> frozenset[str]:
    """Returns the names of the options in these arguments."""
    return frozenset(word.partition("=")[0] for word in args if is_option(word.partition("=")[0]))


def _extra_argv(args: Sequence[str], flags: frozenset[str]) -> tuple[str, ...]:
    checked = check_extra_args(args)  # again: a spec may come from a file that was edited by hand
    for name in checked:
        if is_option(name):
            _required("extraArgs", flags, name)
    return checked


def child_environment(
    environ: Mapping[str, str], placement: Placement | None = None
) -> dict[str, str]:
    """Returns the environment of a llama-server; see `_PASSED_ENVIRONMENT`."""
    passed = {name: environ[name] for name in sorted(_PASSED_ENVIRONMENT & environ.keys())}
    return passed | dict(environment_of(placement))
