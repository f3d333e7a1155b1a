"""Recipes and targets: the shipped ones load, and a mistake in one's own is named."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgephi.build.shapes import architecture_of, shape_of
from edgephi.checkpoint.config import load_architecture
from edgephi.commands import edgephi_command
from edgephi.declared.recipe import ChatSettings, Recipe, RecipeModel, Shape, read_recipe, recipe_for, recipes
from edgephi.declared.target import Target, read_target, targets
from edgephi.declared.toml_files import read_toml, shipped, shipped_names
from edgephi.errors import BadDeclarationError
from edgephi.export.exporter import exporter

CONFIGS = Path(__file__).resolve().parents[3] / "shared" / "configs"
RECIPE = 'name = "own"\nsummary = "One of my own"\n'
TARGET = (shipped("targets") / "cpu.toml").read_text()
SHAPES = [recipe for recipe in recipes() if recipe.model.shape is not None]


def write(folder: Path, text: str) -> str:
    (folder / "own.toml").write_text(text)
    return str(folder / "own.toml")


def rejected_recipe(folder: Path, text: str) -> str:
    with pytest.raises(BadDeclarationError) as caught:
        read_recipe(write(folder, text))
    assert caught.value.exit_code == 4
    assert "\n" not in caught.value.message
    assert caught.value.hint
    return caught.value.message


def rejected_target(folder: Path, text: str) -> str:
    with pytest.raises(BadDeclarationError) as caught:
        read_target(write(folder, text))
    assert "\n" not in caught.value.message
    return caught.value.message


class TestShipped:
    def test_all_recipes_load_under_their_files_names(self) -> None:
        names = shipped_names("recipes")
        assert [recipe.name for recipe in recipes()] == names
        assert {
            "default", "demo", "phi-3-mini-4k", "phi-3-mini-128k", "phi-3.5-mini", "phi-3-medium-4k",
            "phi-3-medium-128k", "phi-4-mini", "phi-4",
        } <= set(names)  # fmt: skip
        for name in names:
            assert read_recipe(name).name == name

    def test_all_targets_load_under_their_files_names(self) -> None:
        names = shipped_names("targets")
        assert [target.name for target in targets()] == names
        assert {"cpu", "raspberry-pi-5-8gb"} <= set(names)
        for target in targets():
            assert read_target(target.name) == target
            assert target.engine in target.engines
            assert exporter(target.engine)
            assert 0 < target.limits.context <= 131072

    def test_no_target_serves_the_whole_context_because_nobody_said_otherwise(self) -> None:
        assert all(target.limits.context < 131072 for target in targets())

    def test_summaries_are_one_line_each(self) -> None:
        for summary in [each.summary for each in recipes()] + [each.summary for each in targets()]:
            assert 10 < len(summary) <= 80
            assert "\n" not in summary

    @pytest.mark.parametrize("recipe", SHAPES, ids=lambda recipe: recipe.name)
    def test_shapes_are_those_of_the_published_configs(self, recipe: Recipe) -> None:
        if not (CONFIGS / recipe.name).is_dir():
            pytest.skip(f"no ../shared/configs/{recipe.name}")
        found, declared = shape_of(load_architecture(CONFIGS / recipe.name)), recipe.model.shape
        if found.images is not None:  # the crops stand in another file
            assert declared is not None and declared.images is not None
            found = replace(found, images=replace(found.images, crops=declared.images.crops))
        assert found == declared

    @pytest.mark.parametrize("recipe", SHAPES, ids=lambda recipe: recipe.name)
    def test_a_shape_survives_the_way_through_an_architecture(self, recipe: Recipe) -> None:
        assert recipe.model.shape is not None
        assert shape_of(architecture_of(recipe.model.shape)) == recipe.model.shape

    @pytest.mark.parametrize(
        ("name", "billions"),
        [
            ("phi-3-mini-4k", 3.82),
            ("phi-3.5-mini", 3.82),
            ("phi-3-medium-4k", 13.96),
            ("phi-4-mini", 3.84),
            ("phi-4", 14.66),
        ],
    )
    def test_shapes_have_as_many_weights_as_the_makers_say(self, name: str, billions: float) -> None:
        shape = read_recipe(name).model.shape
        assert shape is not None
        assert architecture_of(shape).parameters / 1e9 == pytest.approx(billions, abs=0.006)


class TestFinding:
    @pytest.mark.parametrize(
        ("model", "recipe"),
        [
            ("phi-3-mini-4k", "phi-3-mini-4k"),
            ("microsoft/Phi-3.5-mini-instruct", "phi-3.5-mini"),
            ("MICROSOFT/phi-3.5-MINI-instruct", "phi-3.5-mini"),
            ("demo", "demo"),
            ("somebody/phi-3-mini-tuned", "default"),
            ("/home/me/checkpoint", "default"),
            ("default", "default"),
            ("", "default"),
        ],
    )
    def test_the_recipe_for_a_model(self, model: str, recipe: str) -> None:
        assert recipe_for(model).name == recipe

    def test_a_name_nearly_right(self) -> None:
        with pytest.raises(BadDeclarationError, match="did you mean 'phi-3-mini-4k'") as caught:
            read_recipe("phi3-mini-4k")
        assert f"`{edgephi_command('recipes')}`" in caught.value.hint
        with pytest.raises(BadDeclarationError, match="did you mean 'raspberry-pi-5-8gb'"):
            read_target("raspberry-pi-5")

    def test_a_name_like_no_other(self) -> None:
        with pytest.raises(BadDeclarationError, match=r"^zzz: expected a target, found none of that name$"):
            read_target("zzz")

    def test_a_file_of_ones_own(self, tmp_path: Path) -> None:
        assert read_recipe(write(tmp_path, RECIPE)) == Recipe("own", "One of my own")
        assert read_target(write(tmp_path, TARGET)) == read_target("cpu")

    def test_no_such_file(self, tmp_path: Path) -> None:
        with pytest.raises(BadDeclarationError, match=r"own\.toml: expected a TOML file, found no such file"):
            read_recipe(str(tmp_path / "own.toml"))
        with pytest.raises(BadDeclarationError, match="found a folder"):
            read_recipe(f"{tmp_path}/")

    @pytest.mark.parametrize("name", ["../recipes/demo", "recipes/", "./demo"])
    def test_a_name_is_never_a_way_out_of_the_folder(self, name: str) -> None:
        with pytest.raises(BadDeclarationError):
            read_recipe(name)


class TestMistakes:
    @pytest.mark.parametrize(
        ("key", "meant"),
        [
            ("[quant]\ngroupsize = 32", "unknown key 'groupsize'; did you mean 'group_size'?"),
            ("[quant]\nint4_block_size = 128", "unknown key 'int4_block_size'"),
            ("[gate]\nexport_eror_kl = 1", "did you mean 'export_error_kl'?"),
            ("[gates]", "unknown key 'gates'; did you mean 'gate'?"),
            ("[model.shape]\nlayer = 1", "did you mean 'layers'?"),
            ("colour = 1", "unknown key 'colour'; known: name, summary, model, quant, gate, evaluation"),
        ],
    )
    def test_an_unknown_key_of_a_recipe(self, tmp_path: Path, key: str, meant: str) -> None:
        message = rejected_recipe(tmp_path, RECIPE + key)
        assert meant in message
        assert "own.toml" in message

    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            ("[quant]\nbits = 5", "quant: bits: expected one of 4, 8, found 5"),
            ("[quant]\ngroup_size = '32'", "group_size: expected one of 32, 64, 128, found '32'"),
            ("[quant]\nsymmetric = 1", "symmetric: expected true or false, found 1"),
            (
                "[quant]\nmethod = 'best'",
                "method: expected one of 'calibrated', 'weighted', 'search', 'rtn', found 'best'",
            ),
            ("[quant]\nbits = true", "bits: expected one of 4, 8, found True"),
            ("[quant]\nbits = 4.0", "bits: expected one of 4, 8, found 4.0"),
            ("[gate]\nend_to_end_kl = 'low'", "end_to_end_kl: expected a number, found 'low'"),
            ("quant = 4", "quant: expected a table, found 4"),
            ("[model]\nid = 3", "model: id: expected a string, found 3"),
            ("[model.shape]\nlayers = 2.5", "is missing"),
            ("[probe]\nprompt = 5", "probe: prompt: expected a string, found 5"),
            ("[probe]\nmax_tokens = 0", "probe: max_tokens: expected 1 to 4096, found 0"),
            ("[probe]\nmax_tokens = 5000", "probe: max_tokens: expected 1 to 4096, found 5000"),
        ],
    )
    def test_a_wrong_type_in_a_recipe(self, tmp_path: Path, line: str, expected: str) -> None:
        assert expected in rejected_recipe(tmp_path, RECIPE + line)

    @pytest.mark.parametrize(
        ("old", "new", "expected"),
        [
            ("context = 4096", "contxt = 4096", "unknown key 'contxt'; did you mean 'context'?"),
            ("context = 4096", 'context = "4k"', "limits: context: expected a whole number, found '4k'"),
            (
                "context = 4096",
                "context = 4096\nminimum_tokens_per_second = -1",
                "limits: minimum_tokens_per_second: expected 0 or more, found -1.0",
            ),
            ("context = 4096", "context = 4096\nminimum_tokens_per_second = inf", "0 or more, found inf"),
            ("context = 4096", "context = 4096\nminimum_tokens_per_second = nan", "0 or more, found nan"),
            ("accuracy_level = 4", "accuracy = 4", "did you mean 'accuracy_level'?"),
            ('arch = ["x86_64", "aarch64", "arm64"]', 'arch = "x86_64"', "arch: expected a list"),
            ('arch = ["x86_64"', "arch = [64", "arch[0]: expected a string, found 64"),
            ('provider = "cpu"\n', "", "key 'provider' is missing"),
            ('onnxruntime-genai = ">=0.18,<0.19"', "onnxruntime-genai = 0.18", "expected a string"),
        ],
    )
    def test_a_mistake_in_a_target(self, tmp_path: Path, old: str, new: str, expected: str) -> None:
        assert old in TARGET
        assert expected in rejected_target(tmp_path, TARGET.replace(old, new, 1))

    @pytest.mark.parametrize(
        "text",
        ["name =", "[[", '{"name": 1}', "a = 1\na = 2", "\0", f"a = {'9' * 5000}", f"a = {'[' * 5000}"],
    )
    def test_not_toml(self, tmp_path: Path, text: str) -> None:
        assert "expected TOML, found" in rejected_recipe(tmp_path, text)

    def test_not_even_text(self, tmp_path: Path) -> None:
        (tmp_path / "own.toml").write_bytes(b"name = '\xff\xfe'")
        with pytest.raises(BadDeclarationError, match="expected TOML"):
            read_recipe(str(tmp_path / "own.toml"))

    def test_an_empty_file_names_the_first_missing_key(self, tmp_path: Path) -> None:
        assert "key 'name' is missing" in rejected_recipe(tmp_path, "")

    @given(
        st.sampled_from(["name", "summary", "model", "quant", "gate", "evaluation", "probe"]), st.integers()
    )
    def test_a_number_is_never_any_key_of_a_recipe(
        self, tmp_path_factory: pytest.TempPathFactory, key: str, value: int
    ) -> None:
        folder = tmp_path_factory.mktemp("own")
        own: dict[str, Any] = {"name": '"own"', "summary": '"mine"', key: value % 1000}
        text = "\n".join(f"{name} = {written}" for name, written in own.items())
        assert re.search(rf"{key}: expected", rejected_recipe(folder, text))


def test_every_key_of_a_recipe_is_read(tmp_path: Path) -> None:
    text = (shipped("recipes") / "phi-4-mini.toml").read_text()
    recipe = read_toml(Path(write(tmp_path, text)), Recipe)
    assert recipe.model == RecipeModel(
        "microsoft/Phi-4-mini-instruct",
        "main",
        Shape(
            vocabulary_size=200064,
            hidden_size=3072,
            intermediate_size=8192,
            layers=32,
            heads=24,
            kv_heads=8,
            rotary_size=96,
            context=131072,
            original_context=4096,
            longrope=True,
            sliding_window=262144,
            tied_embeddings=True,
        ),
    )
    assert isinstance(read_target("cpu"), Target)


@pytest.mark.parametrize(
    ("quant", "message"),
    [
        (
            "[quant.keep]\nauto = 1.5",
            "quant.keep: auto: expected a share of .* found 1.5",
        ),
        ("[quant.keep]\nauto = nan", "quant.keep: auto: expected a share .* found nan"),
        (
            "[quant]\nbits_per_weight = 0",
            "quant: bits_per_weight: expected a number above 0 and up to 64, found 0",
        ),
        ("[quant]\nbits_per_weight = inf", "expected a number above 0 and up to 64, found inf"),
        ("[quant]\nbits_per_weight = 1e308", r"expected a number above 0 and up to 64, found 1e\+308"),
        (f"[quant.keep]\nauto = {10**400}", "auto: expected a number of 64 bits, found one of 1329"),
        ("[quant]\nbits_per_weight = 5\nkeep = { auto = 0.1 }", "bits_per_weight or keep.auto, found both"),
        ("[quant.keep]\ntensor = []", "unknown key 'tensor'; did you mean 'tensors'"),
    ],
)
def test_a_choice_that_is_none(tmp_path: Path, quant: str, message: str) -> None:
    with pytest.raises(BadDeclarationError, match=message):
        read_recipe(write(tmp_path, f"{RECIPE}{quant}\n"))


class TestChatFiles:
    def test_they_are_read_from_the_recipes_folder(self, tmp_path: Path) -> None:
        (tmp_path / "form.jinja").write_text("{{ messages }}\n")
        (tmp_path / "who.txt").write_text("You are a lamp.\n")
        text = f'{RECIPE}[chat]\ntemplate = "form.jinja"\nsystem = "@who.txt"\nstop = ["<|end|>"]\n'
        found = read_recipe(write(tmp_path, text)).chat
        assert found == ChatSettings("{{ messages }}\n", "You are a lamp.", ("<|end|>",))

    def test_a_message_may_stand_in_the_recipe(self, tmp_path: Path) -> None:
        text = f'{RECIPE}[chat]\nsystem = "You are a lamp."\n'
        assert read_recipe(write(tmp_path, text)).chat == ChatSettings(system="You are a lamp.")

    @pytest.mark.parametrize("key", ["template", "system"])
    @pytest.mark.parametrize("content", [None, b"\xff"], ids=["missing", "no text"])
    def test_one_that_cannot_be_read_is_named(self, tmp_path: Path, key: str, content: bytes | None) -> None:
        if content is not None:
            (tmp_path / "file").write_bytes(content)
        sign = "@" if key == "system" else ""
        message = rejected_recipe(tmp_path, f'{RECIPE}[chat]\n{key} = "{sign}file"\n')
        assert f"chat: {key}: expected a file of UTF-8 text, found {tmp_path / 'file'}" in message
