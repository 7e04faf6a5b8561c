"""The llama-server options that users may set: one table. Pure.

None of them can name a file, use the network, run a tool or override an option of magid.

Source of the option names and values: `llama-server --help` of llama.cpp 0.7.0 (build 11669), with
the older spellings of options that were renamed.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from magid.errors import InvalidInput
from magid.llama.runtime_settings import MAX_EXTRA_ARGS, SETTINGS


@dataclass(frozen=True, slots=True)
class _Value:
    """The values of an option: they match `pattern`, with each number within the bounds."""

    pattern: str  # compiled at its first use: most options are never used
    says: str  # for a person
    low: float | None = None
    high: float | None = None

    def accepts(self, text: str) -> bool:
        if not re.fullmatch(self.pattern, text):
            return False
        if self.low is None or self.high is None:
            return True
        return all(self.low <= float(part) <= self.high for part in text.split(","))


_INT = r"-?[0-9]{1,10}"
_FLOAT = r"-?[0-9]{1,10}(?:\.[0-9]{1,10})?(?:e[+-]?[0-9]{1,2})?"


def _int(low: int, high: int) -> _Value:
    return _Value(_INT, f"a whole number from {low} to {high}", low, high)


def _float(low: float, high: float) -> _Value:
    return _Value(_FLOAT, f"a number from {low:g} to {high:g}", low, high)


def _floats(low: float, high: float) -> _Value:
    pattern = rf"{_FLOAT}(?:,{_FLOAT}){{0,31}}"
    return _Value(pattern, f"numbers from {low:g} to {high:g} with commas between", low, high)


def _one_of(text: str) -> _Value:
    words = text.split()
    return _Value("|".join(map(re.escape, words)), "one of " + ", ".join(words))


def _some_of(text: str) -> _Value:
    words = text.split()
    word = "(?:" + "|".join(map(re.escape, words)) + ")"
    return _Value(rf"{word}(?:,{word}){{0,15}}", "some of " + ", ".join(words))


_MANY = 2**31 - 1  # llama-server keeps counts in a signed 32-bit integer
_COUNT = _int(0, _MANY)
_COUNT_OR_MINUS_ONE = _int(-1, _MANY)
_SHARE = _float(0, 1)
_FACTOR = _float(-1, 1_000_000)
_CACHE_TYPE = _one_of("f32 f16 bf16 q8_0 q4_0 q4_1 iq4_nl q5_0 q5_1")
# llama-server takes any other name for the text of a template.
_CHAT_TEMPLATE = _one_of(
    """bailing bailing-think bailing2 chatglm3 chatglm4 chatml command-r deepseek deepseek-ocr
    deepseek2 deepseek3 exaone-moe exaone3 exaone4 falcon3 gemma gigachat glmedge gpt-oss granite
    granite-4.0 granite-4.1 grok-2 hunyuan-dense hunyuan-moe hunyuan-vl kimi-k2 llama2 llama2-sys
    llama2-sys-bos llama2-sys-strip llama3 llama4 megrez minicpm mistral-v1 mistral-v3
    mistral-v3-tekken mistral-v7 mistral-v7-tekken monarch openchat orion pangu-embedded phi3 phi4
    rwkv-world seed_oss smolvlm solar-open vicuna vicuna-orca yandex zephyr"""
)

# All spellings of an option, and its values; None for a switch.
_ALLOWED: tuple[tuple[str, _Value | None], ...] = (
    # processor
    ("-tb --threads-batch", _int(1, 1024)),
    ("--threads-http", _int(-1, 1024)),
    ("--cpu-strict", _one_of("0 1")),
    ("--prio", _int(-1, 2)),  # 3 is real-time: it can starve the machine
    ("--poll", _int(0, 100)),
    ("--numa", _one_of("distribute isolate numactl")),
    # memory and devices
    ("-ub --ubatch-size", _int(1, 1_048_576)),
    ("-fa --flash-attn", _one_of("on off auto")),
    ("-ctk --cache-type-k", _CACHE_TYPE),
    ("-ctv --cache-type-v", _CACHE_TYPE),
    ("-kvo --kv-offload", None),
    ("-nkvo --no-kv-offload", None),
    ("-kvu --kv-unified", None),
    ("-no-kvu --no-kv-unified", None),
    ("--kv-unified-per-slot", _COUNT),
    ("-cram --cache-ram", _int(-1, 4_194_304)),
    ("--swa-full", None),
    ("-ctxcp --ctx-checkpoints --swa-checkpoints", _int(0, 4096)),
    ("-nr --no-repack", None),
    ("--no-host", None),
    ("--no-op-offload", None),
    ("-lm --load-mode", _one_of("auto none mmap mlock mmap+mlock dio")),
    ("-lzm --lazy-mode", _one_of("on auto off")),
    ("--mlock", None),
    ("--no-mmap", None),
    ("-sm --split-mode", _one_of("none layer row tensor")),
    ("-ts --tensor-split", _floats(0, 1_000_000)),
    ("-mg --main-gpu", _int(0, 127)),
    ("-fit --fit", _one_of("on off")),
    ("-fitt --fit-target", _floats(0, 4_194_304)),
    ("-fitc --fit-ctx", _COUNT),
    ("-cmoe --cpu-moe", None),
    ("-ncmoe --n-cpu-moe", _int(0, 4096)),
    ("--moe-cache-mib", _int(0, 4_194_304)),
    ("-ncffn --n-cpu-ffn", _int(0, 4096)),
    ("--check-tensors", None),
    ("--no-warmup", None),
    ("--sleep-idle-seconds", _COUNT_OR_MINUS_ONE),
    # context
    ("--keep", _COUNT_OR_MINUS_ONE),
    ("--context-shift", None),
    ("--no-context-shift", None),
    ("--rope-scaling", _one_of("none linear yarn")),
    ("--rope-scale", _FACTOR),
    ("--rope-freq-base", _float(0, 1e12)),
    ("--rope-freq-scale", _FACTOR),
    ("--yarn-orig-ctx", _COUNT),
    ("--yarn-ext-factor", _FACTOR),
    ("--yarn-attn-factor", _FACTOR),
    ("--yarn-beta-slow", _FACTOR),
    ("--yarn-beta-fast", _FACTOR),
    ("--no-cache-prompt", None),
    ("--cache-reuse", _COUNT),
    ("-sps --slot-prompt-similarity", _SHARE),
    # requests
    ("-n --predict --n-predict", _COUNT_OR_MINUS_ONE),
    ("-to --timeout", _int(1, 86_400)),
    ("--sse-ping-interval", _int(-1, 3600)),
    ("-nocb --no-cont-batching", None),
    ("--pooling", _one_of("none mean cls last rank")),
    ("--embd-normalize", _int(-1, 64)),
    ("-sp --special", None),
    ("--spm-infill", None),
    ("--no-mmproj-offload", None),
    ("--image-min-tokens", _COUNT),
    ("--image-max-tokens", _COUNT),
    # chat and thinking
    ("--jinja", None),
    ("--no-jinja", None),
    ("--chat-template", _CHAT_TEMPLATE),
    ("--no-prefill-assistant", None),
    ("-rea --reasoning", _one_of("on off auto")),
    ("--reasoning-format", _one_of("auto none deepseek deepseek-legacy")),
    ("--reasoning-budget", _COUNT_OR_MINUS_ONE),
    (
        "--reasoning-effort",
        _one_of("default minimal low medium high xhigh max"),
    ),
    # defaults of sampling
    ("-s --seed", _int(-1, 2**32 - 1)),
    ("--temp --temperature", _float(0, 100)),
    ("--top-k", _COUNT),
    ("--top-p", _SHARE),
    ("--min-p", _SHARE),
    ("--top-nsigma --top-n-sigma", _float(-1, 100)),
    ("--xtc-probability", _SHARE),
    ("--xtc-threshold", _SHARE),
    ("--typical --typical-p", _SHARE),
    ("--repeat-last-n", _COUNT_OR_MINUS_ONE),
    ("--repeat-penalty", _float(0, 100)),
    ("--presence-penalty", _float(-100, 100)),
    ("--frequency-penalty", _float(-100, 100)),
    ("--dry-multiplier", _float(0, 100)),
    ("--dry-base", _float(0, 100)),
    ("--dry-allowed-length", _COUNT),
    ("--dry-penalty-last-n", _COUNT_OR_MINUS_ONE),
    # speculative decoding without a second file
    (
        "--spec-type",
        _some_of("none draft-mtp ngram-simple ngram-map-k ngram-map-k4v ngram-mod ngram-cache"),
    ),
    ("--spec-draft-n-max --draft-max", _int(0, 1024)),
    ("--spec-draft-n-min --draft-min", _int(0, 1024)),
    ("--spec-draft-p-min --draft-p-min", _SHARE),
    # log; levels above 4 log prompts
    ("-lv --verbosity --log-verbosity", _int(0, 4)),
)

# Each spelling -> (the first spelling, its values).
_OPTIONS: Mapping[str, tuple[str, _Value | None]] = {
    name: (names.split()[0], value) for names, value in _ALLOWED for name in names.split()
}

# For a person.
REFUSED = (
    "An option is refused if it names a file or folder, uses the network, lets a model run "
    "commands or read files, logs prompts, or is set by magid itself. An option and its value are "
    "two words, never --option=value."
)
_PORT = "is set by magid; PUT /api/models/{modelId}/port changes it"
_SETTING = "is set by magid; use the run-time setting {}"
_FIXED = "is set by magid and cannot be changed"
_FILE = "names a file or folder, which is not allowed"
_NETWORK = "makes the server use the network"
_TOOLS = "lets a model run commands or read files on this machine"

# Options that are refused with a special reason: pattern of the option -> reason.
_REFUSED: tuple[tuple[str, str], ...] = (
    ("--port", _PORT),
    ("-m|--model|-a|--alias|--host|--reuse-port|--tags", _FIXED),
    ("--api-key|--api-key-file|--api-prefix|--cors-.*|--ssl-.*|--offline", _FIXED),
    ("--metrics|--props|--slots|--no-slots|(--|--no-)(ui|webui)", _FIXED),
    ("--embeddings?|--rerank(ing)?|-mm|--mmproj|--mmproj-auto|--no-mmproj(-auto)?", _FIXED),
    *(("|".join(each.options), _SETTING.format(each.key)) for each in SETTINGS if each.options),
    ("--tools.*|-ag|--agent|-no-ag|--no-agent|--mcp-.*|--(no-)?(ui|webui)-.*", _TOOLS),
    ("--rpc|-mu|--model-url|-mmu|--mmproj-url|-dr|--docker-repo|-hf.*|--hf-.*", _NETWORK),
    ("--spec-draft-hf|--.*-default|--fim-.*", _NETWORK),
    ("--path|--.*-(path|file|dir)|--models-.*|-jf|-lcs|-lcd|--lookup-cache-.*", _FILE),
    ("--lora.*|--control-vector.*|-md|--model-draft|--spec-draft-model|-mv|--model-vocoder", _FILE),
    ("-v|--verbose|--log-verbose", "writes every prompt to the log"),
    (
        "-h|--help|--usage|--version|--list-devices|--completion-bash|-cl|--cache-list",
        "makes llama-server print and exit",
    ),
)


def check_extra_args(args: Sequence[str]) -> tuple[str, ...]:
    """Returns the arguments if users may set all of them; else raises InvalidInput.

    Option names must be exact, long or short, and each value an argument of its own: no
    `--option=value`, no abbreviation, no option twice. Accepted arguments consist of
    [A-Za-z0-9.,:_+-]. The error's details are `field` (extraArgs[N]), `argument`, and `allowed` if
    the option has a range.
    """
    if len(args) > MAX_EXTRA_ARGS:
        raise InvalidInput(
            f"cannot use extraArgs: {len(args)} arguments, but at most {MAX_EXTRA_ARGS} are "
            "allowed; remove some",
            field="extraArgs",
        )
    seen: set[str] = set()
    index = 0
    while index < len(args):
        index += _check_option(args, index, seen)
    return tuple(args)


def _check_option(args: Sequence[str], index: int, seen: set[str]) -> int:
    """Checks the option at `index` and its value; returns how many arguments those are."""
    name = args[index]
    if name not in _OPTIONS:
        raise _bad_argument(args, index, _why_unknown(name))
    option, value = _OPTIONS[name]
    if option in seen:
        raise _bad_argument(args, index, "it is given twice")
    seen.add(option)
    if value is None:
        return 1
    if index + 1 == len(args):
        raise _bad_argument(args, index, f"its value is missing: {value.says}", value.says)
    if not value.accepts(args[index + 1]):
        raise _bad_argument(args, index + 1, f"{name} takes {value.says}", value.says)
    return 2


def _why_unknown(argument: str) -> str:
    name = argument.split("=", 1)[0]
    for pattern, why in _REFUSED:
        if re.fullmatch(pattern, name):
            return f"{name} {why}"
    if name in _OPTIONS:
        return "give the value as a separate argument, without '='"
    if not argument.startswith("-"):
        return "it is not an option, and the argument before it takes no value"
    return "it is not an allowed llama-server option"


def _bad_argument(
    args: Sequence[str], index: int, why: str, allowed: str | None = None
) -> InvalidInput:
    field = f"extraArgs[{index}]"
    shown = args[index][:80]
    message = f"cannot use {shown!r} ({field}): {why}"
    if allowed is None:
        return InvalidInput(message, field=field, argument=shown)
    return InvalidInput(message, field=field, argument=shown, allowed=allowed)


def allowed_options() -> dict[str, str]:
    """Returns all spellings of each option -> its values, for a person; "" for a switch."""
    return {names.replace(" ", ", "): value.says if value else "" for names, value in _ALLOWED}


def is_option(argument: str) -> bool:
    """Whether the argument is an option in the table, not a value."""
    return argument in _OPTIONS


def is_switch(argument: str) -> bool:
    """Whether the argument is an option in the table that takes no value."""
    return argument in _OPTIONS and _OPTIONS[argument][1] is None


def first_spelling(argument: str) -> str:
    """Returns the spelling that stands first in the table; the argument itself if it is in none."""
    return _OPTIONS[argument][0] if argument in _OPTIONS else argument


def is_short(name: str) -> bool:
    """Whether the name with one dash is an option, of users, of magid itself, or a refused one."""
    settings = {option for setting in SETTINGS for option in setting.options}
    short = f"-{name}"
    return (
        short in _OPTIONS
        or short in settings
        or any(re.fullmatch(pattern, short) for pattern, _ in _REFUSED)
    )
