"""The `Modelfile` beside a GGUF file, from which `ollama create NAME -f Modelfile` makes a model.

Ollama takes tokens and weights from the GGUF file, but not the Jinja template: its templates are Go's
`text/template` over a list of messages. The stop tokens stand here as texts, because Ollama knows some of
them only so, and the context, because its own default is another.

Source: Ollama's `docs/modelfile.md`, `parser/parser.go` and `template/template.go`.
"""

from collections.abc import Iterable, Mapping

from edgephi.chat.formats import ChatFormat

MODELFILE = "Modelfile"
_QUOTES = '"""'

# A conversation in each chat format, and the start of the answer. ¶ROLE, ¶END and ¶START are a line break or
# nothing: after a role's token, after `<|end|>`, and after the last `<|assistant|>`.
_TEMPLATES = {
    "phi-3": (
        "{{ range .Messages }}<|{{ .Role }}|>¶ROLE{{ .Content }}<|end|>¶END{{ end }}<|assistant|>¶START"
    ),
    "phi-3-small": (
        "<|endoftext|>{{ range .Messages }}<|{{ .Role }}|>\n{{ .Content }}<|end|>\n{{ end }}<|assistant|>\n"
    ),
    "phi-4-mini": "{{ range .Messages }}<|{{ .Role }}|>{{ .Content }}<|end|>{{ end }}<|assistant|>",
    "phi-4": (
        "{{ range .Messages }}<|im_start|>{{ .Role }}<|im_sep|>{{ .Content }}<|im_end|>{{ end }}"
        "<|im_start|>assistant<|im_sep|>"
    ),
}


def modelfile(
    model_file: str,
    chat: ChatFormat | None,
    breaks: Mapping[str, bool],
    stops: Iterable[str],
    context: int,
    *,
    system: str = "",
) -> str:
    """The text of a Modelfile for the GGUF file `model_file` in the same folder.

    `breaks` says of `<|system|>`, `<|user|>`, `<|assistant|>` and `<|end|>` whether a line break follows it.
    Without a format of ours there is no Go template: then Ollama goes by the Jinja template in the GGUF file,
    as far as it knows that one. `system` is the bundle's system message.
    """
    written = "" if chat is None else f'TEMPLATE """{go_template(chat, breaks)}"""'
    lines = [
        "# ollama create NAME -f Modelfile",
        f"FROM ./{model_file}",
        *([written] if written else ["# the checkpoint's own chat template lies in that file, as Jinja"]),
        *(f'PARAMETER stop "{text}"' for text in stops),
        f"PARAMETER num_ctx {context}",
    ]
    if _QUOTES in system:  # which nothing can stand for
        lines.append("# the bundle's system message has three quotes in a row, which no Modelfile can hold")
    elif system:
        lines.append(f"SYSTEM {_QUOTES}{system}{_QUOTES}")
    return "\n".join(lines) + "\n"


def modelfile_with_adapter(text: str, model_file: str, adapter_file: str) -> str:
    """A bundle's Modelfile for an adapter, from two folders below that of the model's file.

    `adapter_file` lies beside it.
    """
    own = f"FROM ./{model_file}\n"
    return text.replace(own, f"FROM ../../{model_file}\nADAPTER ./{adapter_file}\n", 1)


def go_template(chat: ChatFormat, breaks: Mapping[str, bool]) -> str:
    """The chat format as a Go template."""
    after_role = "\n"
    for role in ("system", "user", "assistant"):
        if not breaks[f"<|{role}|>"]:
            after_role = f'{{{{ if ne .Role "{role}" }}}}{after_role}{{{{ end }}}}'
    return (
        _TEMPLATES[chat.name]
        .replace("¶ROLE", after_role)
        .replace("¶END", "\n" if breaks["<|end|>"] else "")
        .replace("¶START", "\n" if breaks["<|assistant|>"] else "")
    )
