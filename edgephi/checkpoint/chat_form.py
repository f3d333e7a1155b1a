"""How a checkpoint's conversations are written: by its own template, or by one of edgephi's.

The checkpoint's own is what it was trained with, so that is what a bundle takes. One of edgephi's stands in
where there is none; and for the templates that the family was published with, some of which leave out the
system message. Those are known by what they write, not by their text, of which there are many: without a
system message the same as ours, letter by letter, whatever the messages look like; and where they know tools,
with those.

Source of where a template may lie: `chat_template_utils.py` and `tokenization_utils_base.py` of transformers.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgephi.bundle.strict_json import steers_a_terminal
from edgephi.chat.formats import ChatFormat, chat_format
from edgephi.chat.template import ChatTemplate
from edgephi.checkpoint.config_keys import read_json_object
from edgephi.checkpoint.git_lfs import check_no_pointer
from edgephi.declared.recipe import AS_CHECKPOINT, ChatSettings
from edgephi.errors import BadBundleError, BadCheckpointError, BadDeclarationError, BadInputError

RECIPE = "recipe"  # as a manifest says it
"""The source of a template that a recipe names."""
ADAPTER = "adapter "
"""What the source of an adapter's template begins with; its name and the file follow."""
TEMPLATE_FILE = "chat_template.jinja"
CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"

_ROLES_OF_TOKENS = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
_HINT = "copy tokenizer.json and tokenizer_config.json from the model that these weights come from"
_MEND = "mend the template, or remove it"
_BOS = "{{ bos_token }}"
_BUT_SYSTEM = " but leaves out system messages"
_SAID = "what was said"


def _turns(*contents: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[place % 2], "content": content} for place, content in enumerate(contents)]


_SYSTEM = {"role": "system", "content": " You are\n a box. "}
# Without a system message. What templates are known to treat otherwise: white space at the ends of a message,
# an empty one, what a model has thought before its answer, and texts that a template could look for.
_CONVERSATIONS = (
    _turns("Hello"),
    _turns(" Hello\n\n", "\n Hello yourself. ", "Who are you?"),
    _turns("a", "<think>\nb\n</think>\n\nc", "d", "<think>e</think>f", "g\n"),
    _turns("", "", "<|end|> <|user|> [INST] {{ x }} {% y %}"),
)
# What a template that knows tools may do with them, in each of the places in which they can be given.
_TOOLS = [{"type": "function", "function": {"name": "light", "parameters": {}}}]
_TOOL_CONVERSATIONS: tuple[list[dict[str, Any]], ...] = (
    [_SYSTEM, *_turns("Hello")],
    [{**_SYSTEM, "tools": '[{"name": "light"}]'}, *_turns("Hello")],
    [
        *_turns("Is it on?"),
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "light", "arguments": {}}}],
        },
        {"role": "tool", "content": "on"},
    ],
)


@dataclass(frozen=True)
class TokenizerPlaces:
    """The folders that a tokenizer's parts lie in: that of a checkpoint, for some that of an adapter.

    `tokens` has `tokenizer.json`, `config` the configuration, and `template` the chat template, which is that
    of the adapter named `adapter` where this is not empty. `remarks` say in a few words each what is not the
    checkpoint's own.
    """

    tokens: Path
    config: Path
    template: Path
    adapter: str = ""
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class ChatForm:
    """What renders a conversation, and the tokens after which an answer has ended.

    `source` is the file of the checkpoint that the `template` comes from, "adapter NAME: FILE", or
    "edgephi: NAME" for one of ours.
    `variables` are the texts that the template finds under names such as `bos_token`. `built_in` is our
    format when the template is that one and nothing more. `stop_texts` are tokens. `remarks` say in a few
    words each what somebody who trained the model would want to know. `system` is the system message of
    conversations that bring none.
    """

    template: str
    source: str
    stop_texts: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)
    built_in: ChatFormat | None = None
    remarks: tuple[str, ...] = ()
    system: str = ""


def read_chat_form(
    places: TokenizerPlaces,
    vocabulary_size: int,
    special_tokens: Collection[str],
    asked: ChatSettings = AS_CHECKPOINT,
) -> ChatForm:
    """The chat form of a checkpoint whose tokenizer is at these places and has these special tokens.

    What is `asked` for comes before what the files say.

    Raises BadCheckpointError for a template that cannot be rendered, and when there is neither a template nor
    a format of ours.
    """
    folder = places.config
    ours = chat_format(vocabulary_size, special_tokens)
    texts = token_texts(folder)
    named = (RECIPE, asked.template) if asked.template else published_template(places.template)
    eos = [texts["eos_token"]] if texts.get("eos_token") in special_tokens else []
    family = [text for text in (ours.stop_tokens if ours else ()) if text in special_tokens]
    if named is None:
        if ours is None:
            raise BadCheckpointError(
                f"{folder / CONFIG_FILE}: expected a chat template, or the chat tokens of the Phi-3 family "
                "(<|user|>, <|assistant|>, <|end|>), found neither",
                hint=_HINT,
            )
        stops = tuple(dict.fromkeys([*family, *eos, *asked.stop]))
        return ChatForm(ours.template, f"edgephi: {ours.name}", stops, built_in=ours, system=asked.system)
    source, text = named
    variables = {name: value for name, value in texts.items() if name in text}
    whose = "checkpoint's own template"
    try:
        where = "[chat] template" if asked.template else str(places.template / source)
        if places.adapter and not asked.template:
            source, whose = f"{ADAPTER}{places.adapter}: {source}", f"template of adapter {places.adapter}"
        own = ChatTemplate(text, variables, where=where)
        own.check()
        _check_writes(own, where)
        mended = _mended(own, ours, variables, whose)
        if mended is not None:
            form, template = mended, ChatTemplate(mended.template, mended.variables)
        else:
            form, template = ChatForm(text, source, (), variables, remarks=_remarks(own)), own
        end = _end_of_turn(template, special_tokens)
    except BadBundleError as error:
        raise BadCheckpointError(error.message, hint=_MEND) from None
    _check_system(template, asked.system)
    stops = tuple(dict.fromkeys([*family, *eos, *end, *asked.stop]))
    return replace(form, stop_texts=stops, system=asked.system)


def _check_writes(template: ChatTemplate, where: str) -> None:
    """Raise BadCheckpointError for a template without what users say, or that no manifest can hold."""
    problem = ""
    written = _rendered_or_refused(template, _turns(_SAID))
    if written is not None and _SAID not in written.lower():
        problem = "a template that writes what the user says, found one that leaves it out"
    elif steers_a_terminal(template.text):
        problem = "a template of letters, tabs and line breaks, found other control characters"
    if problem:
        raise BadCheckpointError(f"{where}: expected {problem}", hint=_MEND)


def _check_system(template: ChatTemplate, system: str) -> None:
    """Raise BadDeclarationError for a system message that would never reach the model."""
    if not system:
        return
    written = _rendered_or_refused(template, [{"role": "system", "content": system}, *_CONVERSATIONS[0]])
    if written is None or system.split(maxsplit=1)[0] not in written:
        what = "refuses them" if written is None else "leaves them out"
        raise BadDeclarationError(
            f"chat: system: expected a chat template that takes system messages, found one that {what}",
            hint="leave the message out, or write its words into a template of your own ([chat] template)",
        )


def published_template(folder: Path) -> tuple[str, str] | None:
    """The file in `folder` that a chat template is in, and its text. One of its own counts before the other.

    Raises BadCheckpointError for what is no template.
    """
    file = folder / TEMPLATE_FILE
    if file.is_file():
        try:
            text = file.read_text(encoding="utf-8")
            check_no_pointer(text.encode(), str(file), "a chat template")
            return TEMPLATE_FILE, text
        except UnicodeDecodeError as cause:
            raise BadCheckpointError(f"{file}: expected text in UTF-8, found {cause}", hint=_HINT) from None
    found = _read(folder, CONFIG_FILE).get("chat_template")
    if isinstance(found, list):
        names = {each.get("name"): each.get("template") for each in found if isinstance(each, dict)}
        if "default" not in names:
            raise BadCheckpointError(
                f"{folder / CONFIG_FILE}: chat_template: expected one with the name default, "
                f"found {', '.join(map(repr, names)) or 'none'}",
                hint=f"write the one that is to be used into {TEMPLATE_FILE}",
            )
        found = names["default"]
    if found is None:
        return None
    if not isinstance(found, str):
        raise BadCheckpointError(
            f"{folder / CONFIG_FILE}: chat_template: expected a text, found {type(found).__name__}",
            hint=_HINT,
        )
    return CONFIG_FILE, found


def _mended(
    own: ChatTemplate, ours: ChatFormat | None, variables: Mapping[str, str], whose: str
) -> ChatForm | None:
    """Our format in place of a template of the family that writes the same, but for the system message."""
    if ours is None:
        return None
    bos = variables.get("bos_token", "")
    starts = {"": ours.template}
    if bos:
        starts[bos] = _BOS + ours.template
    built_in = ChatTemplate(ours.template)
    for start, template in starts.items():
        if any(own.render(each) != start + built_in.render(each) for each in _CONVERSATIONS):
            continue
        asked = _CONVERSATIONS[1]
        with_system = start + built_in.render([_SYSTEM, *asked])
        found = _rendered_or_refused(own, [_SYSTEM, *asked])
        if found not in (with_system, start + built_in.render(asked), None):
            return None
        if own.knows_tools and not _same_with_tools(own, start, built_in):
            return None
        same = found == with_system
        remarks = (f"the {whose} writes the same" + ("" if same else _BUT_SYSTEM),)
        if not start:
            # The one in the file and ours are the same where both are told nothing else.
            return ChatForm(template, f"edgephi: {ours.name}", (), {}, ours, remarks)
        if not same:
            return ChatForm(template, f"edgephi: {ours.name}", (), {"bos_token": bos}, None, remarks)
    return None


def _remarks(own: ChatTemplate) -> tuple[str, ...]:
    """What a checkpoint's own template does that its users may not expect."""
    asked = _CONVERSATIONS[0]
    found = _rendered_or_refused(own, [_SYSTEM, *asked])
    if found is None:
        return ("it refuses system messages",)
    return () if _SYSTEM["content"].strip() in found else ("it leaves out system messages",)


def _same_with_tools(own: ChatTemplate, start: str, ours: ChatTemplate) -> bool:
    try:
        return all(
            _rendered_or_refused(own, each, _TOOLS) == start + ours.render(each, tools=_TOOLS)
            for each in _TOOL_CONVERSATIONS
        )
    except BadBundleError:  # it cannot render them
        return False


def _rendered_or_refused(
    template: ChatTemplate, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None
) -> str | None:
    try:
        return template.render(messages, tools=tools)
    except BadInputError:
        return None


def _end_of_turn(template: ChatTemplate, special_tokens: Collection[str]) -> list[str]:
    """The special token that the template writes behind an answer, if it does."""
    rendered = _rendered_or_refused(template, _turns("a", _SAID, "b")) or ""
    after = rendered.rpartition(_SAID)[2].lstrip()
    fitting = [text for text in special_tokens if text and after.startswith(text)]
    return [max(fitting, key=len)] if fitting else []


def token_texts(folder: Path) -> dict[str, str]:
    """The text of each special token that has a role by the files in `folder`, however they write it."""
    content = {**_read(folder, SPECIAL_TOKENS_FILE), **_read(folder, CONFIG_FILE)}
    texts = {}
    for role in _ROLES_OF_TOKENS:
        value = content.get(role)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            texts[role] = text
    return texts


def _read(folder: Path, name: str) -> Mapping[str, Any]:
    file = folder / name
    return read_json_object(file, where=str(file)) if file.is_file() else {}
