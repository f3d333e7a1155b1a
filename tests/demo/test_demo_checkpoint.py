"""The checkpoint inside the package: small, a real Phi-3, honestly examined, and right."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="the oracle of these tests is transformers on torch")
transformers = pytest.importorskip(
    "transformers", reason="the oracle of these tests is transformers on torch"
)
tokenizers = pytest.importorskip("tokenizers")

from edgephi.reference.evaluation_text import passages  # noqa: E402
from tests.demo.commands import Command, held_out_commands, training_commands  # noqa: E402
from tests.demo.examine import exact_match, greedy_answers, quantize_in_place  # noqa: E402
from tests.demo.train import TRAINING_COUNT, TRAINING_SEED  # noqa: E402
from tests.phi_3_chat import as_phi_3  # noqa: E402
from tests.property_profile import examples  # noqa: E402

DEMO = Path(__file__).resolve().parents[2] / "edgephi" / "demo"
FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)

# Phi-3's own order and flags: content, whether it swallows the white space after it, whether it is special.
LEADING_TOKENS = (("<unk>", False, True), ("<s>", False, True), ("</s>", True, False))
TRAILING_TOKENS = (
    ("<|endoftext|>", False, True),
    ("<|assistant|>", True, True),
    ("<|placeholder1|>", True, True),
    ("<|placeholder2|>", True, True),
    ("<|placeholder3|>", True, True),
    ("<|placeholder4|>", True, True),
    ("<|system|>", True, True),
    ("<|end|>", True, True),
    ("<|placeholder5|>", True, True),
    ("<|placeholder6|>", True, True),
    ("<|user|>", True, True),
)


def read_json(name: str) -> Any:
    return json.loads((DEMO / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return transformers.AutoTokenizer.from_pretrained(DEMO)


@pytest.fixture(scope="module")
def raw_tokenizer() -> Any:
    return tokenizers.Tokenizer.from_file(str(DEMO / "tokenizer.json"))


@pytest.fixture(scope="module")
def model() -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.bfloat16).eval()


@pytest.fixture(scope="module")
def trained() -> list[Command]:
    """The very commands that the shipped checkpoint was trained on."""
    return training_commands(TRAINING_SEED, TRAINING_COUNT)


@pytest.fixture(scope="module")
def trained_prompts(trained: list[Command]) -> set[str]:
    """Everything that a user says in training, normalised."""
    said = {user for command in trained for user, _ in command.history}
    return {normalized(prompt) for prompt in said | {command.prompt for command in trained}}


@pytest.fixture(scope="module")
def trained_answers(trained: list[Command]) -> set[str]:
    """Everything that the assistant says in training."""
    return {answer for command in trained for answer in (command.answer, *(a for _, a in command.history))}


@pytest.fixture(scope="module")
def held_out_score(model: Any, tokenizer: Any) -> float:
    """Exact match of the checkpoint as shipped, in bf16, on every third command of those held out."""
    commands = held_out_commands()[::3]
    return exact_match(commands, greedy_answers(model, tokenizer, commands))


# ---- files -------------------------------------------------------------------------------------------------


def test_it_fits_into_five_megabytes() -> None:
    assert sum((DEMO / name).stat().st_size for name in FILES) <= 5_000_000


def test_config_is_a_classic_phi3() -> None:
    config = read_json("config.json")
    assert (config["model_type"], config["architectures"]) == ("phi3", ["Phi3ForCausalLM"])
    assert (config["rope_theta"], config["rope_scaling"], config["torch_dtype"]) == (
        10000.0,
        None,
        "bfloat16",
    )
    assert config["tie_word_embeddings"] is False
    # int4 groups of 128 along the input dimension, and head sizes that engines' attention kernels take
    assert config["hidden_size"] % 128 == config["intermediate_size"] % 128 == 0
    assert (config["hidden_size"] // config["num_attention_heads"]) % 16 == 0
    assert config["vocab_size"] % 64 == 0


def test_stop_tokens_are_phi3s_three(raw_tokenizer: Any) -> None:
    stops = [raw_tokenizer.token_to_id(token) for token in ("<|endoftext|>", "<|assistant|>", "<|end|>")]
    assert read_json("generation_config.json") == {
        "bos_token_id": 1,
        "eos_token_id": stops,
        "pad_token_id": stops[0],
    }
    config = read_json("config.json")
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (1, stops[0], stops[0])


def test_weights_are_bf16_with_fused_projections() -> None:
    from safetensors import safe_open

    with safe_open(DEMO / "model.safetensors", framework="pt") as weights:
        names = set(weights.keys())
        assert {weights.get_tensor(name).dtype for name in names} == {torch.bfloat16}
    layers = read_json("config.json")["num_hidden_layers"]
    in_layer = (
        "input_layernorm",
        "post_attention_layernorm",
        "self_attn.qkv_proj",
        "self_attn.o_proj",
        "mlp.gate_up_proj",
        "mlp.down_proj",
    )
    expected = {f"model.layers.{layer}.{part}.weight" for layer in range(layers) for part in in_layer}
    assert names == expected | {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}


# ---- tokenizer ---------------------------------------------------------------------------------------------


def test_special_tokens_have_phi3s_order_and_flags(raw_tokenizer: Any) -> None:
    added = read_json("tokenizer.json")["added_tokens"]
    assert tuple((t["content"], t["rstrip"], t["special"]) for t in added) == LEADING_TOKENS + TRAILING_TOKENS
    assert [t["id"] for t in added[:3]] == [0, 1, 2]
    # The trailing ones are the last of the vocabulary, without a gap.
    size = raw_tokenizer.get_vocab_size()
    assert [t["id"] for t in added[3:]] == list(range(size - len(TRAILING_TOKENS), size))
    assert size <= read_json("config.json")["vocab_size"]


def test_every_byte_has_a_token_and_nothing_is_pre_tokenised(raw_tokenizer: Any) -> None:
    assert [raw_tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in range(256)] == list(range(3, 259))
    pipeline = read_json("tokenizer.json")
    assert pipeline["pre_tokenizer"] is None
    assert pipeline["model"]["byte_fallback"] is True


# The only texts that change: "▁" is how the pipeline writes a space, "<...>" may spell a special token.
anything = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁<"), max_size=60)


@settings(max_examples=examples(300))
@given(text=anything | st.text("😀👩‍🚀é中 a", max_size=20))
def test_any_text_survives_the_round_trip(raw_tokenizer: Any, text: str) -> None:
    assert raw_tokenizer.decode(raw_tokenizer.encode(text).ids) == text


def test_transformers_tokenises_as_the_file_says(tokenizer: Any, raw_tokenizer: Any) -> None:
    for command in held_out_commands()[:100]:
        text = tokenizer.apply_chat_template(command.messages(), add_generation_prompt=True, tokenize=False)
        assert tokenizer.encode(text) == raw_tokenizer.encode(text).ids


def test_chat_template(tokenizer: Any) -> None:
    said = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "U"},
        {"role": "assistant", "content": "A"},
        {"role": "user", "content": "V"},
    ]
    chat = "<|system|>\nS<|end|>\n<|user|>\nU<|end|>\n<|assistant|>\nA<|end|>\n<|user|>\nV<|end|>\n"
    assert (
        tokenizer.apply_chat_template(said, add_generation_prompt=True, tokenize=False)
        == chat + "<|assistant|>\n"
    )
    assert tokenizer.apply_chat_template(said, tokenize=False) == chat + "<|endoftext|>"


# ---- an honest examination ---------------------------------------------------------------------------------


def normalized(prompt: str) -> str:
    """The prompt without what speech adds: capitals and punctuation."""
    return "".join(letter for letter in prompt.lower() if letter.isalnum() or letter in " %:")


def test_no_held_out_prompt_is_trained(trained_prompts: set[str]) -> None:
    held_out = held_out_commands()
    assert len({normalized(command.prompt) for command in held_out}) >= 500
    assert not [command.prompt for command in held_out if normalized(command.prompt) in trained_prompts]


def test_no_held_out_combination_is_trained_in_any_words(trained_answers: set[str]) -> None:
    combinations = [command.answer for command in held_out_commands() if command.held_out == "combination"]
    assert combinations
    assert not trained_answers.intersection(combinations)


@pytest.mark.parametrize(
    "prompt",
    [
        "lock the front door",
        "secure the back door",
        "unlock the side door",
        "set an alarm for 1 am",
        "set an alarm for one pm",
        "set a timer for five hours",
        "set a timer for five seconds",
        "set a timer for ten minutes",
        "beep in 2 hours",
        "what can you do",
        "who are you",
    ],
)
def test_ordinary_commands_are_not_held_out(prompt: str) -> None:
    assert prompt not in {normalized(command.prompt) for command in held_out_commands()}


def test_training_commands_are_the_same_every_time() -> None:
    assert training_commands(7, 50) == training_commands(7, 50)
    assert training_commands(7, 50) != training_commands(8, 50)


def test_bf16_answers_held_out_commands(held_out_score: float) -> None:
    assert held_out_score >= 0.95


def test_int4_answers_nearly_as_many(tokenizer: Any, held_out_score: float) -> None:
    """What edgephi's own smallest bundle does to the weights costs next to nothing."""
    commands = held_out_commands()[::3]
    rounded = transformers.AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32).eval()
    quantize_in_place(rounded)
    assert exact_match(commands, greedy_answers(rounded, tokenizer, commands)) >= held_out_score - 0.02


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (
            Command("please turn the kitchen light down to thirty percent", "", ""),
            '{"action": "set_brightness", "room": "kitchen", "device": "light", "value": 30}',
        ),
        (Command("set a timer for ten minutes", "", ""), '{"action": "set_timer", "duration": "10 minutes"}'),
        (Command("lock the front door", "", ""), '{"action": "lock", "device": "front door"}'),
        (Command("Secure the back door.", "", ""), '{"action": "lock", "device": "back door"}'),
        (Command("set an alarm for 1 pm", "", ""), '{"action": "set_alarm", "time": "13:00"}'),
        (Command("set a timer for five hours", "", ""), '{"action": "set_timer", "duration": "5 hours"}'),
        (Command("beep in 2 hours", "", ""), '{"action": "set_timer", "duration": "2 hours"}'),
        (
            Command("Set the bedroom lights to 5%", "", ""),
            '{"action": "set_brightness", "room": "bedroom", "device": "light", "value": 5}',
        ),
        (
            Command("set the garage volume to fifteen percent", "", ""),
            '{"action": "set_volume", "room": "garage", "device": "speaker", "value": 15}',
        ),
        (
            Command("who are you?", "", ""),
            "I am the edgephi demo, a small language model that runs on this device.",
        ),
        (
            Command("what can you do?", "", ""),
            "I control lights, heating, blinds, locks, music, fans, timers and alarms, "
            "and I read the sensors.",
        ),
        (
            Command("what's the temperature in the garage", "", "", system="You control a home."),
            '{"action": "read_sensor", "room": "garage", "sensor": "temperature"}',
        ),
        (
            Command(
                "now turn it off again",
                "",
                "",
                history=(
                    ("turn on the office lamp", '{"action": "turn_on", "room": "office", "device": "lamp"}'),
                ),
            ),
            '{"action": "turn_off", "room": "office", "device": "lamp"}',
        ),
        (
            Command("what is the capital of France?", "", ""),
            "I can only control this device's home functions.",
        ),
    ],
    ids=lambda value: value.prompt if isinstance(value, Command) else "",
)
def test_the_documented_examples(model: Any, tokenizer: Any, command: Command, answer: str) -> None:
    assert greedy_answers(model, tokenizer, [command]) == [answer]


# ---- the text on which a demo bundle is measured -----------------------------------------------------------


def device_conversations() -> list[list[Command]]:
    """The device passages as commands; each has all turns of its conversation before it as history."""
    conversations = []
    for passage in passages(as_phi_3, "device"):
        contents = [turn.split("\n", 1)[1] for turn in passage.text.split("<|end|>\n")[:-1]]
        turns = list(zip(contents[::2], contents[1::2], strict=True))
        conversations.append(
            [
                Command(user, answer, "", history=tuple(turns[:index]))
                for index, (user, answer) in enumerate(turns)
            ]
        )
    return conversations


def device_turns() -> list[Command]:
    return [command for conversation in device_conversations() for command in conversation]


def test_device_text_is_in_the_demos_chat_format(tokenizer: Any) -> None:
    for passage, conversation in zip(passages(as_phi_3, "device"), device_conversations(), strict=True):
        last = conversation[-1]
        messages = [*last.messages(), {"role": "assistant", "content": last.answer}]
        assert tokenizer.apply_chat_template(messages, tokenize=False) == f"{passage.text}<|endoftext|>"


def test_device_text_is_not_trained(trained_prompts: set[str]) -> None:
    # "Turn it off again" stands in training after other commands; here, too, another one comes before it.
    prompts = [turn.prompt for turn in device_turns() if " it " not in turn.prompt]
    assert len(prompts) >= len(device_turns()) - 1
    assert not [prompt for prompt in prompts if normalized(prompt) in trained_prompts]


def test_device_text_says_what_the_model_says(model: Any, tokenizer: Any) -> None:
    turns = device_turns()
    assert exact_match(turns, greedy_answers(model, tokenizer, turns)) >= 0.9
