"""Derives family, version, size, quantization, id and display name of a model. Pure.

The sources are the header and the file name. Both are untrusted: for any input an id consists of
[a-z0-9_], has at most ID_LIMIT characters, and is not empty.

The header's words have priority (`general.basename`, `.finetune`, `.version`, `.size_label`). A
file name is parsed by the convention of ggml's docs/gguf.md,
`BaseName-SizeLabel-FineTune-Version-Encoding`, which real files follow loosely.
"""

import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from msgspec import Struct

ID_LIMIT: Final = 120
"""Characters of an id; leaves room within 128 for the `_2` of a duplicate."""

TEXT_LIMIT: Final = 200
"""Characters of a header's text that are used; real names have up to 80."""

_PART_LIMIT: Final = 80
_MAX_NUMBER: Final = 2**63 - 1

_SHARD: Final = re.compile(r"[-._]([0-9]{1,5})-of-([0-9]{1,5})$")
_ENCODING: Final = re.compile(
    r"""(?<![a-z0-9]) (?:ud[-_.])? (
        iq[1-8] (?:[-_](?:xxs|xs|s|m|l|xl|nl|k))?
      | q[1-8]  (?:[-_](?:[01](?:[-_][48][-_][48])? | k(?:[-_](?:xxs|xs|s|m|l|xl|xxl))?))?
      | tq[12][-_]0 | mxfp4(?:[-_]moe)? | nvfp4 | fp8 | bf16 | fp?16 | fp?32
    ) (?![a-z0-9])""",
    re.VERBOSE,
)
_WORD: Final = re.compile(r"[^\W_]+(?:(?<=[0-9])\.(?=[0-9])[^\W_]+)*")
_VENDOR: Final = re.compile(
    r"(?:"
    r"(?:meta|google|microsoft|nvidia|mistralai|openai|unsloth|allenai|tiiuae|lmsys|apple|tencent"
    r"|baidu|thudm|moonshotai|huggingfacetb|nousresearch|cohereforai|coherelabs|c4ai|ibm)[-_]"
    r"|(?:ibm-granite|deepseek-ai|lgai-exaone|zai-org|01-ai|swiss-ai|meta-llama|bytedance-seed)_"
    r"|qwen_(?=qw)|ibm-(?=granite)"
    r")(?=[a-z])"
)
_GENERIC: Final = frozenset(
    {"ggml", "gguf", "model", "models", "checkpoint", "snapshot", "hf", "merged", "mmproj"}
)
_HYPHENATED: Final = frozenset({"gpt-oss", "gpt-j", "gpt-neo", "gpt-neox", "seed-oss", "command-r"})
_PLAIN_SIZE: Final = re.compile(r"([0-9]{1,4}(?:\.[0-9]{1,3})?)([mbt])(?:-a[0-9.]{1,6}b)?")
_OTHER_SIZE: Final = re.compile(r"[0-9]{1,4}x[0-9.]{1,6}[mbt]|e[0-9.]{1,4}b")  # 8x7B, E4B
_BESIDE_SIZE: Final = re.compile(r"a[0-9.]{1,6}b|[0-9]{1,3}e")  # -A3B active, -16E experts
_VERSION: Final = re.compile(r"(?!i1$)[a-z]?[0-9]{1,2}(?:\.[0-9]{1,2}){0,2}[a-z]?")
_VERSION_ANYWHERE: Final = re.compile(r"v[0-9]{1,3}(?:\.[0-9]{1,3}){0,3}")
_CODE: Final = re.compile(r"(?<!en)(?<!de)code|codestral|devstral")
_INSTRUCT: Final = frozenset({"instruct", "it", "chat", "inst"})
_BITS: Final = re.compile(r"(?:i?q|tq|mxfp|nvfp|fp|bf|f)([0-9]{1,2})(?:_|$)")
_BILLIONS: Final = {"m": 1e-3, "b": 1.0, "t": 1e3}

FILE_TYPES: Final[Mapping[int, str]] = {
    0: "f32", 1: "f16", 2: "q4_0", 3: "q4_1", 7: "q8_0", 8: "q5_0", 9: "q5_1", 10: "q2_k",
    11: "q3_k_s", 12: "q3_k_m", 13: "q3_k_l", 14: "q4_k_s", 15: "q4_k_m", 16: "q5_k_s",
    17: "q5_k_m", 18: "q6_k", 19: "iq2_xxs", 20: "iq2_xs", 21: "q2_k_s", 22: "iq3_xs",
    23: "iq3_xxs", 24: "iq1_s", 25: "iq4_nl", 26: "iq3_s", 27: "iq3_m", 28: "iq2_s", 29: "iq2_m",
    30: "iq4_xs", 31: "iq1_m", 32: "bf16", 36: "tq1_0", 37: "tq2_0", 38: "mxfp4", 39: "nvfp4",
    40: "q1_0",
}  # fmt: skip
"""general.file_type -> encoding: llama.cpp's enum llama_ftype."""

_GUESSED: Final = 1024
"""LLAMA_FTYPE_GUESSED, a flag in the same number."""


class ModelName(Struct, frozen=True):
    """The parts of a model's name, in lower case."""

    family: str
    version: str | None
    variant: str | None  # the remaining words, joined with "_"
    size_params: float  # billions, one decimal
    quantization: str  # "q4_k_m"; "5bit" if neither name nor header has the encoding
    is_instruct: bool
    is_coder: bool

    def base_id(self, tier: str) -> str:
        """`family[_version][_variant]_SIZEb_QUANT_TIER`; duplicates are resolved elsewhere."""
        quantization = _slug(self.quantization).replace("_", "")
        tail = f"_{_slug(f'{self.size_params:.1f}')}b_{quantization}_{tier}"
        parts = (_slug(part or "") for part in (self.family, self.version, self.variant))
        head = "_".join(part for part in parts if part)[: ID_LIMIT - len(tail)].strip("_")
        return (head or "model") + tail

    def display_name(self) -> str:
        """`DEEPSEEK R1 8.0B Q4_K_M`."""
        variant = (self.variant or "").replace("_", " ")
        words = (self.family, self.version, variant, f"{self.size_params:.1f}b", self.quantization)
        return " ".join(word for word in words if word).upper()


class NameParts(Struct, frozen=True):
    """The parts of one name."""

    tokens: tuple[str, ...]  # without size, encoding, vendor and shard number
    size: str | None  # "8b", "30b-a3b", "8x7b": as written
    encoding: str | None


def identify(
    filename: str, metadata: Mapping[str, object], *, parameter_count: int, bits: float = 0.0
) -> ModelName:
    """Names a model. `parameter_count` is exact, over all shards; `bits` is bits per weight.

    Metadata of the wrong type counts as absent. Never raises.
    """
    own = split_name(filename)
    words = name_words(own, metadata)
    tokens = list(words.tokens)
    family = tokens.pop(0) if tokens else _family_of_architecture(metadata)
    version = _take_version(tokens, text(metadata, "general.version"))
    label = (text(metadata, "general.size_label") or "").lower()
    return ModelName(
        family=family[:_PART_LIMIT],
        version=version,
        variant="_".join(tokens)[:_PART_LIMIT].strip("_") or None,
        size_params=_billions((label, words.size, own.size), parameter_count),
        quantization=own.encoding or _encoding_of_header(metadata, bits),
        is_instruct=not _INSTRUCT.isdisjoint(tokens),
        is_coder=any(_CODE.search(token) for token in (family, *tokens)),
    )


def name_words(own: NameParts, metadata: Mapping[str, object]) -> NameParts:
    """Returns the words of a model's name: the header's, if it has any, else the file name's."""
    basename = text(metadata, "general.basename")
    parts = split_name(basename) if basename else None
    if parts is None or not parts.tokens or parts.tokens[0].isdigit():
        return own
    tokens = list(parts.tokens)
    for key in ("general.finetune", "general.version"):
        more = split_name(text(metadata, key) or "").tokens
        tokens += [token for token in more if token not in tokens]
    return NameParts(tuple(tokens), parts.size, parts.encoding)


def split_name(name: str) -> NameParts:
    """Splits a name into parts. A file name may end in `.gguf`."""
    rest = name[: TEXT_LIMIT + 100].lower().removesuffix(".gguf")
    rest = _SHARD.sub("", rest)
    encoding = None
    if matches := list(_ENCODING.finditer(rest)):
        last = matches[-1]
        encoding = last[1].replace("-", "_").replace("fp16", "f16").replace("fp32", "f32")
        rest = f"{rest[: last.start()]}-{rest[last.end() :]}"
    while match := _VENDOR.match(rest):
        rest = rest[match.end() :]
    tokens = _WORD.findall(rest)
    while tokens and tokens[0] in _GENERIC:
        del tokens[0]
    if tokens and tokens[-1] == "split":
        tokens.pop()
    size = _take_size(tokens)
    if "-".join(tokens[:2]) in _HYPHENATED:
        tokens[:2] = ["-".join(tokens[:2])]
    return NameParts(tuple(tokens), size, encoding)


def file_stem(filename: str) -> str:
    """Returns the file name without `.gguf` and the number of a shard."""
    rest = filename[:-5] if filename[-5:].lower() == ".gguf" else filename
    return _SHARD.sub("", rest) or rest


def nominal_bits(quantization: str) -> float | None:
    """Returns the bits in an encoding's name: 4 for Q4_K_M and MXFP4, not counting the scales."""
    match = _BITS.match(quantization)
    return float(match[1]) if match else None


def text(metadata: Mapping[str, object], key: str) -> str | None:
    """Returns a header's text, printable and at most TEXT_LIMIT long; None if it is empty."""
    value = metadata.get(key)
    if not isinstance(value, str):
        return None
    value = value[:TEXT_LIMIT]
    if not value.isprintable():
        value = "".join(filter(str.isprintable, value))
    return value.strip() or None


def number(metadata: Mapping[str, object], key: str) -> int | None:
    """Returns a header's non-negative integer; None for anything else."""
    value = metadata.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value <= _MAX_NUMBER else None


def _take_size(tokens: list[str]) -> str | None:
    """Removes the size from the tokens. Prefers billions: millions may be a context length."""
    sizes = [i for i, token in enumerate(tokens) if _is_size(token)]
    if not sizes:
        return None
    at = next((i for i in sizes if not tokens[i].endswith("m")), sizes[0])
    size = tokens.pop(at)
    if at < len(tokens) and _BESIDE_SIZE.fullmatch(tokens[at]):
        size = f"{size}-{tokens.pop(at)}"
    return size


def _is_size(token: str) -> bool:
    return bool(_PLAIN_SIZE.fullmatch(token) or _OTHER_SIZE.fullmatch(token))


def _take_version(tokens: list[str], of_header: str | None) -> str | None:
    """Removes the version from the tokens after the family: the first, else a `v1.0` anywhere.

    A header's version counts only if it looks like a version: `2507` is the month of a release.
    """
    if tokens and _VERSION.fullmatch(tokens[0]) and not _is_no_version(tokens[0]):
        return tokens.pop(0)
    wanted = (of_header or "").lower()
    for at, token in enumerate(tokens):
        named = token == wanted and _VERSION.fullmatch(token)
        if named or _VERSION_ANYWHERE.fullmatch(token):
            return tokens.pop(at)
    return None


def _is_no_version(token: str) -> bool:
    return _is_size(token) or bool(_BESIDE_SIZE.fullmatch(token))


def _billions(labels: tuple[str | None, ...], parameter_count: int) -> float:
    """Returns the first plain label, else the exact count: 8x7B and 17B-16E are not totals."""
    for label in labels:
        if label and (match := _PLAIN_SIZE.fullmatch(label)):
            return round(float(match[1]) * _BILLIONS[match[2]], 1)
    return round(max(0, min(parameter_count, _MAX_NUMBER)) / 1e9, 1)


def _family_of_architecture(metadata: Mapping[str, object]) -> str:
    tokens = _WORD.findall((text(metadata, "general.architecture") or "").lower())
    return "-".join(tokens) or "model"


def _encoding_of_header(metadata: Mapping[str, object], bits: float) -> str:
    file_type = number(metadata, "general.file_type")
    if file_type is not None and (known := FILE_TYPES.get(file_type & ~_GUESSED)):
        return known
    return f"{min(bits, 64.0):.0f}bit" if bits > 0 else "unknown"


def _slug(part: str) -> str:
    """Reduces text to lower-case letters, digits and "_"; a point between digits becomes "p"."""
    if part.isascii() and part.isalnum():
        return part.lower()
    ascii_text = unicodedata.normalize("NFKD", part).encode("ascii", "ignore").decode().lower()
    with_points = re.sub(r"(?<=[0-9])\.(?=[0-9])", "p", ascii_text)
    return re.sub(r"[^a-z0-9_]", "", with_points).strip("_")


_MOST_SIZES: Final = 4  # words of an id that may be sizes: 16 spellings


@lru_cache(maxsize=10_000)
def spellings(model_id: str) -> tuple[str, ...]:
    """Returns what `spelt` does, for the id of a model, and keeps it: each decision asks for all.

    Not for what a caller has written, whose names would be kept in the place of the models'.
    """
    return spelt(model_id)


def spelt(name: str) -> tuple[str, ...]:
    """Returns the id, then its other spellings: `8b` and `8p0b` are the same size.

    For example, `moe_8p0b_70b` is also `moe_8b_70b`, `moe_8p0b_70p0b` and `moe_8b_70p0b`.
    """
    words = name.split("_")
    sizes = [index for index, word in enumerate(words) if _WHOLE_SIZE.fullmatch(word)]
    found = [words]
    for index in sizes[:_MOST_SIZES]:
        other = _other_size(words[index])
        found += [[*one[:index], other, *one[index + 1 :]] for one in found]
    return tuple("_".join(one) for one in found)


_WHOLE_SIZE: Final = re.compile(r"([0-9]+)(p0)?b")


def _other_size(word: str) -> str:
    return word[:-3] + "b" if word.endswith("p0b") else word[:-1] + "p0b"
