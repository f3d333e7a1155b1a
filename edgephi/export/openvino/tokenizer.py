"""`tokenizer.json` as two OpenVINO graphs: text to token ids, and back. Needs no OpenVINO, no transformers.

The operators are those of openvino_tokenizers, which every OpenVINO GenAI carries; their inputs and
attributes are described by that project's sources.

Strings travel as three tensors: where each begins, where it ends, and the bytes of all. Two more in front say
which strings make up a text, and one behind says which of them are added tokens, that nothing may change.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from edgephi.export.openvino.intermediate_representation import UNKNOWN, Graph, Value
from edgephi.export.openvino.vocabulary import (
    AddedToken,
    Step,
    TokenizerFile,
    read_tokenizer_file,
    refuse,
    spellings_in,
    spellings_out,
)
from edgephi.export.word_patterns import DIGIT, GPT_2, NUMBER

# Whose converter lays its graphs out like these: openvino-genai leaves what it takes for old as it is.
_LAYOUT_VERSION = "2026.4.1.0"
_EXTENSION = "extension"
_STRINGS = [("i32", (UNKNOWN,)), ("i32", (UNKNOWN,)), ("u8", (UNKNOWN,))]
_NUMBERS = [("i32", (UNKNOWN,))]
_LARGEST = np.iinfo(np.int32).max
# All that Unicode calls white space: what the `tokenizers` library strips beside a token.
_SPACE = r"[\t-\r \x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}]"
_SPLITS = {"Isolated": "isolate", "Removed": "remove"}
_CACHED_WORDS = 20_000

Values = tuple[Value, ...]


def tokenizer_files(
    file: Path,
    *,
    chat_template: str,
    pad_token_id: int,
    stop_token_ids: Sequence[int],
    bos_token_id: int | None,
) -> dict[str, bytes]:
    """Name and content of the four files that openvino-genai makes a tokenizer from.

    Raises NotSupportedError when a part of the `tokenizer.json` in `file` cannot be expressed exactly.
    """
    tokenizer = read_tokenizer_file(file)
    information: dict[str, str | dict[str, str]] = {
        "openvino_tokenizers_version": _LAYOUT_VERSION,
        "chat_template": chat_template,
        "eos_token_id": str(stop_token_ids[0]),
        "pad_token_id": str(pad_token_id),
    }
    if bos_token_id is not None:
        information["bos_token_id"] = str(bos_token_id)
    files = {}
    for name, graph in (
        ("openvino_tokenizer", tokenizer_graph(tokenizer, pad_token_id)),
        ("openvino_detokenizer", detokenizer_graph(tokenizer)),
    ):
        files[f"{name}.xml"] = graph.xml(information)
        files[f"{name}.bin"] = bytes(graph.literals)
    return files


def tokenizer_graph(tokenizer: TokenizerFile, pad_token_id: int) -> Graph:
    """Texts, string [B] -> `input_ids` and `attention_mask`, i64 [B, L], padded on the left."""
    graph = Graph("tokenizer")
    text = graph.parameter("text", "string", (UNKNOWN,))
    strings = graph.add("StringTensorUnpack", [text], _STRINGS, version="opset15")
    strings = _strip_beside_tokens(graph, tokenizer, strings)
    strings = _mark_the_start(graph, tokenizer, strings)
    pieces = _cut_out(graph, _one_text_each(graph, strings), tokenizer.added_tokens)
    for step in tokenizer.normalizer:
        pieces = (*pieces[:2], *_normalize(graph, tokenizer, step, pieces[2:]))
    for step in tokenizer.pre_tokenizer:
        pieces = _pre_tokenize(graph, tokenizer, step, pieces)
    ids = _with_template(graph, tokenizer, _byte_pair_encode(graph, tokenizer, pieces))
    for name, value in zip(("input_ids", "attention_mask"), _pad(graph, ids, pad_token_id), strict=True):
        (wide,) = graph.add("Convert", [value], [("i64", value.shape)], data={"destination_type": "i64"})
        graph.result(name, wide)
    return graph


def detokenizer_graph(tokenizer: TokenizerFile) -> Graph:
    """Token ids, i64 [B, L] -> `string_output`, string [B]. Special tokens are left out."""
    graph = Graph("detokenizer")
    ids = graph.parameter("input_ids", "i64", (UNKNOWN, UNKNOWN))
    narrow = graph.add("Convert", [ids], [("i32", ids.shape)], data={"destination_type": "i32"})
    special = sorted(token.id for token in tokenizer.added_tokens if token.special)
    # The engine looks for this slice: it moves its end to 0 when special tokens are asked for.
    bounds = [graph.literal([bound], "i32") for bound in (0, _LARGEST, 1)]
    skipped = graph.add("Slice", [graph.literal(special, "i32"), *bounds], _NUMBERS, version="opset8")
    table = _string_table(graph, spellings_out(tokenizer))
    decoded = graph.add(
        "VocabDecoder",
        [*narrow, *table, *skipped],
        [*_NUMBERS, *_NUMBERS, *_STRINGS],
        version=_EXTENSION,
        data={"skip_tokens": ""},
        name="VocabDecoder",
    )
    whole = graph.add("FuzeRagged", decoded[:4], [*_NUMBERS, *_NUMBERS], version=_EXTENSION)
    strings: Values = (*whole, decoded[4])
    for step in tokenizer.decoder:
        if step["type"] == "Strip":
            if step["stop"]:
                refuse(tokenizer.where, "decoder", step)
            strings = _replace(
                graph, strings, f"^{_quoted(step['content'])}{{0,{step['start']}}}", "", once=True
            )
    strings = graph.add("UTF8Validate", strings, _STRINGS, version=_EXTENSION, data={"replace_mode": "true"})
    (text,) = graph.add("StringTensorPack", strings, [("string", (UNKNOWN,))], version="opset15")
    graph.result("string_output", text)
    return graph


def _quoted(text: str) -> str:
    """`text` as a regular expression that matches it and nothing else."""
    return "".join(letter if letter.isalnum() or ord(letter) > 127 else f"\\{letter}" for letter in text)


def _any_of(texts: Iterable[str]) -> str:
    return "|".join(_quoted(text) for text in texts)


def _string(graph: Graph, text: str) -> Value:
    return graph.literal(np.frombuffer(text.encode(), np.uint8), "u8")


def _string_table(graph: Graph, strings: Sequence[bytes]) -> Values:
    ends = np.cumsum([len(string) for string in strings], dtype=np.int32)
    begins = np.concatenate([np.zeros(1, np.int32), ends[:-1]])
    content = np.frombuffer(b"".join(strings), np.uint8)
    return graph.literal(begins, "i32"), graph.literal(ends, "i32"), graph.literal(content, "u8")


def _same(values: Sequence[Value]) -> list[tuple[str, tuple[int, ...]]]:
    """Outputs of the types of `values`, as many as there turn out to be."""
    return [(value.element_type, (UNKNOWN,)) for value in values]


def _replace(graph: Graph, strings: Values, pattern: str, replacement: str, *, once: bool = False) -> Values:
    """Replace matches in every string; where a fourth tensor says which are added tokens, not in those."""
    return graph.add(
        "RegexNormalization",
        [*strings, _string(graph, pattern), _string(graph, replacement)],
        _same(strings),
        version=_EXTENSION,
        data={"global_replace": str(not once).lower()},
    )


def _strip_beside_tokens(graph: Graph, tokenizer: TokenizerFile, strings: Values) -> Values:
    """Remove the white space that an added token takes with it."""
    tokens = tokenizer.added_tokens
    right = [token.text for token in tokens if token.strips_right]
    left = [token.text for token in tokens if token.strips_left]
    for token in tokens:
        # The patterns below know no beginning of a token, or no end.
        inside = [text for text in right if token.text.endswith(text) and text != token.text]
        inside += [text for text in left if token.text.startswith(text) and text != token.text]
        if inside:
            refuse(tokenizer.where, f"added token {inside[0]!r}", f"{token.text!r}, which it is a part of")
    if right:
        strings = _replace(graph, strings, f"(?<={_any_of(right)}){_SPACE}+", "")
    if left:
        strings = _replace(graph, strings, f"{_SPACE}+(?={_any_of(left)})", "")
    return strings


def _mark_the_start(graph: Graph, tokenizer: TokenizerFile, strings: Values) -> Values:
    """Metaspace's mark where a text is to get one at its start only, and only where no token stands there."""
    for step in tokenizer.pre_tokenizer:
        if step["type"] == "Metaspace" and step["prepend_scheme"] == "first":
            mark = step["replacement"]
            barred = _any_of([*(token.text for token in tokenizer.added_tokens), " ", mark])
            strings = _replace(graph, strings, rf"^(?!{barred})([\s\S])", f"{mark}$1", once=True)
    return strings


def _one_text_each(graph: Graph, strings: Values) -> Values:
    """Say in front which strings make up a text: one each."""
    (shape,) = graph.add(
        "ShapeOf", strings[:1], [("i64", (1,))], version="opset3", data={"output_type": "i64"}
    )
    zero, one = graph.literal(0), graph.literal(1)
    (count,) = graph.add(
        "Gather", [shape, zero, zero], [("i64", ())], version="opset8", data={"batch_dims": "0"}
    )
    (after,) = graph.add("Add", [count, one], [("i64", ())], data={"auto_broadcast": "numpy"})
    narrow = {"output_type": "i32"}
    begins = graph.add("Range", [zero, count, one], _NUMBERS, version="opset4", data=narrow)
    ends = graph.add("Range", [one, after, one], _NUMBERS, version="opset4", data=narrow)
    return (*begins, *ends, *strings)


def _cut_out(graph: Graph, texts: Values, tokens: Sequence[AddedToken]) -> Values:
    """Cut every text at its added tokens; a sixth tensor says which pieces are one."""
    pattern = f"({_any_of(token.text for token in tokens)})"
    return graph.add(
        "SpecialTokensSplit",
        [*texts, _string(graph, pattern)],
        [*_same(texts), ("boolean", (UNKNOWN,))],
        version=_EXTENSION,
    )


def _normalize(graph: Graph, tokenizer: TokenizerFile, step: Step, pieces: Values) -> Values:
    kind = step["type"]
    if kind == "Prepend":
        return _replace(graph, pieces, r"^([\s\S])", f"{step['prepend']}$1", once=True)
    if kind == "Replace" and "String" in step["pattern"]:
        return _replace(graph, pieces, _quoted(step["pattern"]["String"]), step["content"])
    if kind in ("NFC", "NFD", "NFKC", "NFKD"):
        options = ("add_dummy_prefix", "remove_extra_whitespaces", "escape_whitespaces", "case_fold", "nmt")
        data = {"normalization_form": kind.lower(), **dict.fromkeys(options, "false")}
        return graph.add("CharsMapNormalization", pieces, _same(pieces), version=_EXTENSION, data=data)
    return refuse(tokenizer.where, "normalizer", kind)


def _pre_tokenize(graph: Graph, tokenizer: TokenizerFile, step: Step, pieces: Values) -> Values:
    kind = step["type"]
    if kind == "Split" and step["behavior"] in _SPLITS:
        pattern = step["pattern"].get("Regex") or _quoted(step["pattern"]["String"])
        return _split(graph, pieces, pattern, _SPLITS[step["behavior"]], invert=step["invert"])
    if kind == "ByteLevel" and not step["add_prefix_space"]:
        # What it does to letters, the vocabulary's spelling has undone.
        return _split(graph, pieces, GPT_2, "isolate") if step.get("use_regex", True) else pieces
    if kind == "Digits":
        return _split(graph, pieces, DIGIT if step["individual_digits"] else NUMBER, "isolate")
    if kind == "Metaspace" and not step["split"]:
        mark = step["replacement"]
        strings = _replace(graph, pieces[2:], " ", mark)
        if step["prepend_scheme"] == "always":
            strings = _replace(graph, strings, rf"^(?!{mark})([\s\S])", f"{mark}$1", once=True)
        return (*pieces[:2], *strings)
    return refuse(tokenizer.where, "pre_tokenizer", dict(step))


def _split(graph: Graph, pieces: Values, pattern: str, behaviour: str, *, invert: bool = False) -> Values:
    return graph.add(
        "RegexSplit",
        [*pieces, _string(graph, pattern)],
        _same(pieces),
        version=_EXTENSION,
        data={"behaviour": behaviour, "invert": str(invert).lower(), "max_splits": "-1"},
    )


def _byte_pair_encode(graph: Graph, tokenizer: TokenizerFile, pieces: Values) -> Values:
    """Token ids of every text: begins, ends and ids."""
    spellings, merges = spellings_in(tokenizer)
    tables = [spellings, *([merge[side] for merge in merges] for side in (0, 1))]
    return graph.add(
        "BPETokenizer",
        [*pieces[:5], *(value for table in tables for value in _string_table(graph, table))],
        _NUMBERS * 3,
        version=_EXTENSION,
        data={
            "unk_token": "",
            "fuse_unk": "false",
            "suffix_indicator": "",
            "end_suffix": "",
            "byte_fallback": "false",
            "cache_capacity": str(_CACHED_WORDS),
        },
    )


def _with_template(graph: Graph, tokenizer: TokenizerFile, ids: Values) -> Values:
    """Put the template's tokens around the ids of every text.

    openvino-genai switches them off where they are not wanted. It finds them by a Truncate in front of
    CombineSegments, so there is one, and a state that it reads: it cuts nothing.
    """
    variable = {"variable_id": "truncation"}
    boolean = [("boolean", ())]
    (truncates,) = graph.add(
        "ReadValue",
        [graph.literal(0, "boolean")],
        boolean,
        version="opset6",
        data={**variable, "variable_type": "boolean", "variable_shape": ""},
    )
    graph.add("Assign", [truncates], boolean, version="opset6", data=variable)
    unlimited = graph.literal(_LARGEST - 64, "i32")  # the operator adds to it
    limit = graph.add(
        "Select", [truncates, unlimited, unlimited], [("i32", ())], data={"auto_broadcast": "numpy"}
    )
    sides = (_string(graph, "right"), _string(graph, "longest_first"))
    uncut = graph.add(
        "Truncate", [*ids, *limit, *sides], _NUMBERS * 3, version=_EXTENSION, data={"m_num_inputs": "1"}
    )
    template = _template(tokenizer)
    segments: list[Value] = []
    for token in template:
        if token is None:
            segments += uncut
        else:
            segments += [graph.literal(0, "i32"), graph.literal(1, "i32"), graph.literal([token], "i32")]
    segments.append(graph.literal([0] * len(template), "i32"))
    return graph.add("CombineSegments", segments, _NUMBERS * 6, version=_EXTENSION)[:3]


def _template(tokenizer: TokenizerFile) -> list[int | None]:
    """The ids that are put around a text, None for the text itself."""
    template: list[int | None] = []
    for step in tokenizer.post_processor:
        if step["type"] == "TemplateProcessing":
            for part in step["single"]:
                if "SpecialToken" in part:
                    template += step["special_tokens"][part["SpecialToken"]["id"]]["ids"]
                else:
                    template.append(None)
        elif step["type"] != "ByteLevel":  # that one moves offsets only
            refuse(tokenizer.where, "post_processor", step["type"])
    return template or [None]


def _pad(graph: Graph, ids: Values, pad_token_id: int) -> Values:
    """Rows of ids as one matrix, i32 [B, L], and which of it they are, boolean [B, L]."""
    (lengths,) = graph.add("Subtract", [ids[1], ids[0]], _NUMBERS, data={"auto_broadcast": "numpy"})
    first_axis = graph.literal(0, "i32")
    longest = graph.add("ReduceMax", [lengths, first_axis], [("i32", ())], data={"keep_dims": "false"})
    matrix = (UNKNOWN, UNKNOWN)
    return graph.add(
        "RaggedToDense",
        [*ids, *longest, graph.literal(pad_token_id, "i32")],
        [("i32", matrix), ("boolean", matrix)],
        version=_EXTENSION,
        data={"pad_right": "false", "m_pad_max_length": "false"},
    )
