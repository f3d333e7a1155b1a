"""A recipe: a model, how to quantise it, and how good the result must be. One file of `recipes/` each."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from edgephi.bundle.certificate import QualityGate
from edgephi.bundle.probe import LARGEST_PROBE_TOKENS
from edgephi.bundle.strict_json import steers_a_terminal
from edgephi.declared.toml_files import find_file, read_all, read_toml
from edgephi.errors import BadDeclarationError

Method = Literal["calibrated", "weighted", "search", "rtn"]
"""How codes are found.

"weighted" measures on a text how large each matrix's inputs are, moves outliers into the weights and
searches the scales with the least error where inputs are large. "calibrated" goes on from there: layer by
layer, behind what is quantised already, with codes that make up for each other's errors. "search" tries many
scales for each group and keeps the one with the least squared error. "rtn" (round to nearest) takes the one
that spans the group.
"""

Formats = Literal["native", "portable"]
"""What codes are stored in.

"native" formats are the best that an engine has: groups with a zero point or an offset, llama.cpp's K-quants.
"portable" ones hold the same codes for every engine, which is how engines are held against each other.
"""

GroupSize = Literal[32, 64, 128]
"""How many weights of a row share a scale."""

ImagePrecision = Literal["int8", "float16"]
"""What the matrices of an image encoder are stored in."""

Mixture = Literal["medium", "small"]
"""Which of llama.cpp's K-quants stand for 4 bits: "medium" gives a bit more to what is sensitive, "small" to
nothing. They are as large as its `Q4_K_M` and `Q4_K_S`.
"""

ModelType = Literal["phi3", "phi3small", "phimoe", "phi3_v"]
"""What parts a model has: those of a Phi-3, of a Phi-3-small, of a Phi-3.5-MoE, or of a Phi-3-vision."""

FOLDER = "recipes"
DEFAULT = "default"

MOST_BITS_PER_WEIGHT = 64
"""Of a weight, with its scales and the artifact's tables: twice those of a model that was not quantised."""


@dataclass(frozen=True)
class ImageShape:
    """The size of an image encoder, CLIP ViT-L/14-336 by default; `layers` counts the idle last one.

    `crops` are the most tiles of an image's grid, which the checkpoint's preprocessor says in the end.
    """

    crops: int
    tile: int = 336
    patch: int = 14
    hidden_size: int = 1024
    layers: int = 24
    heads: int = 16
    width: int = 4096


@dataclass(frozen=True)
class Shape:
    """The published model's size, so that a plan needs no download. Checked against its config when built.

    `rotary_size` is the number of rotated dimensions of a head, `original_context` where LongRoPE switches.
    `intermediate_size` of a mixture of experts is that of one. `model_type` says what parts there are; the
    last fields are those of a mixture, of block-sparse attention and of an image encoder
    (`edgephi.checkpoint.architecture`).
    """

    vocabulary_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    rotary_size: int
    context: int
    original_context: int
    longrope: bool = False
    sliding_window: int | None = None
    tied_embeddings: bool = False
    model_type: ModelType = "phi3"
    experts: int = 0
    experts_per_token: int = 0
    sparse_block: int = 0
    local_blocks: int = 0
    vertical_stride: int = 0
    dense_every: int = 0
    images: ImageShape | None = None


@dataclass(frozen=True)
class RecipeModel:
    """Where the checkpoint is: a hub id (or `demo`), a revision, and the shape that it must have.

    An empty id is a recipe for any checkpoint of the family.
    """

    id: str = ""
    revision: str = "main"
    shape: Shape | None = None


@dataclass(frozen=True)
class Keep:
    """Which matrices are kept at more bits than the others: at 8, or the next better of llama.cpp's K-quants.

    `tensors` by name, as artifacts and most checkpoints name them, without ".weight":
    "model.layers.2.mlp.down_proj", or a pattern such as "model.layers.*.mlp.down_proj". `auto` is a share of
    the layers' weights beside these, 0.03 say, which the build chooses (`edgephi.build.mixed_precision`).
    """

    tensors: tuple[str, ...] = ()
    auto: float = 0.0


@dataclass(frozen=True)
class Quant:
    """How to quantise: see `edgephi.quantize.tensor_plan.TensorPlan`. Embedding and head have their own bits.

    When the two share one matrix, it gets the larger number of bits of the two. So may the experts of a
    mixture; without `expert_bits` they have those of all other matrices. A router is never quantised.

    `symmetric` is about portable formats; native ones are what the engine has (`EngineFacts.native_groups`),
    and llama.cpp's K-quants have their own sizes of groups too (`edgephi.quantize.k_quants`).

    `image_encoder` is about models that see, whose encoder takes a tenth of the weights.

    `bits_per_weight` of the whole artifact is a budget, in place of a share: the build keeps at more bits
    what gains most by it, until the budget is spent.
    """

    method: Method = "weighted"
    bits: Literal[4, 8] = 4
    group_size: GroupSize = 32
    symmetric: bool = True
    embedding_bits: Literal[4, 8] = 8
    head_bits: Literal[4, 8] = 8
    expert_bits: Literal[4, 8] | None = None
    formats: Formats = "native"
    mixture: Mixture = "medium"
    image_encoder: ImagePrecision = "int8"
    keep: Keep = field(default_factory=Keep)
    bits_per_weight: float | None = None

    @property
    def chooses(self) -> bool:
        """Whether the build chooses what is kept at more bits."""
        return self.keep.auto > 0 or self.bits_per_weight is not None


@dataclass(frozen=True)
class Question:
    """What a device asks a new bundle before it trusts it. The answer is recorded when the bundle is built.

    Best is a question whose answer is no matter of taste; at most `max_tokens` of it are asked for. With an
    empty prompt nothing is asked.
    """

    prompt: str = "What is the capital of France?"
    max_tokens: int = 32


@dataclass(frozen=True)
class PictureProbeQuestion:
    """The same about a picture, for a model that sees: a file beside the recipe, or else a drawn gauge."""

    prompt: str = "What does the gauge say?"
    max_tokens: int = 16
    picture: str = ""


@dataclass(frozen=True)
class ChatSettings:
    """How conversations with the bundle are written, where that is to be another way than the checkpoint's.

    `template` is a Jinja chat template, and `system` the system message of all conversations that bring none.
    A recipe names the template's file, and may name one for the message after an "@"; both are found from
    the recipe's folder, and read with it. `stop` are tokens of the tokenizer that end an answer as well.
    """

    template: str = ""
    system: str = ""
    stop: tuple[str, ...] = ()


AS_CHECKPOINT = ChatSettings()
"""The checkpoint's own way."""


@dataclass(frozen=True)
class Recipe:
    """One file of `recipes/`. `evaluation` chooses the text that the certificate is measured on."""

    name: str
    summary: str
    model: RecipeModel = field(default_factory=RecipeModel)
    quant: Quant = field(default_factory=Quant)
    gate: QualityGate = field(default_factory=QualityGate)
    evaluation: Literal["general", "device"] = "general"
    probe: Question = field(default_factory=Question)
    picture_probe: PictureProbeQuestion = field(default_factory=PictureProbeQuestion)
    chat: ChatSettings = field(default_factory=ChatSettings)


def read_recipe(name: str) -> Recipe:
    """The recipe of that name, or in that TOML file. Raises BadDeclarationError."""
    file = find_file(name, FOLDER)
    recipe = read_toml(file, Recipe)
    for key, asked in (("probe", recipe.probe), ("picture_probe", recipe.picture_probe)):
        if not 1 <= asked.max_tokens <= LARGEST_PROBE_TOKENS:
            raise BadDeclarationError(
                f"{name}: {key}: max_tokens: expected 1 to {LARGEST_PROBE_TOKENS}, found {asked.max_tokens}",
                hint="32 are enough to know an answer by",
            )
    _check_choice(name, recipe.quant)
    picture = _picture_beside(name, file.parent, recipe.picture_probe.picture)
    return replace(
        recipe,
        chat=_with_files(name, file.parent, recipe.chat),
        picture_probe=replace(recipe.picture_probe, picture=picture),
    )


def _picture_beside(name: str, folder: Path, picture: str) -> str:
    """Where the picture is that a recipe names; nothing for none."""
    if not picture:
        return ""
    if not (folder / picture).is_file():
        raise BadDeclarationError(
            f"{name}: picture_probe: picture: expected a file, found no {folder / picture}",
            hint="it is looked for beside the recipe",
        )
    return str(folder / picture)


def _with_files(name: str, folder: Path, chat: ChatSettings) -> ChatSettings:
    """The settings with what stands in the files that they name."""
    template, system = chat.template, chat.system
    if template:
        template = _text_of(folder / template, f"{name}: chat: template")
        if not template.strip():
            raise BadDeclarationError(
                f"{name}: chat: template: expected a chat template, found an empty file",
                hint="leave the key out to take the checkpoint's own",
            )
    if system.startswith("@"):
        system = _text_of(folder / system[1:], f"{name}: chat: system").strip()
    check_system(system, f"{name}: chat: system")
    return replace(chat, template=template, system=system)


def check_system(system: str, where: str) -> None:
    """Raise BadDeclarationError for a system message that no manifest can hold; `where` says whose it is."""
    if steers_a_terminal(system):
        raise BadDeclarationError(
            f"{where}: expected letters, tabs and line breaks, found other control characters",
            hint="`cat -v` shows them",
        )


def _text_of(file: Path, where: str) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as cause:
        found = cause.strerror if isinstance(cause, OSError) else "other bytes"
        raise BadDeclarationError(
            f"{where}: expected a file of UTF-8 text, found {file}: {found}",
            hint="it is looked for beside the recipe",
        ) from None


def _check_choice(name: str, quant: Quant) -> None:
    """Raise BadDeclarationError for a share or a budget that is none."""
    auto, budget = quant.keep.auto, quant.bits_per_weight
    if not 0 <= auto <= 1:
        raise BadDeclarationError(
            f"{name}: quant.keep: auto: expected a share of the weights from 0 to 1, found {auto:g}",
            hint="0.03 keeps a thirtieth of them at more bits",
        )
    if budget is None:
        return
    if not 0 < budget <= MOST_BITS_PER_WEIGHT:
        raise BadDeclarationError(
            f"{name}: quant: bits_per_weight: expected a number above 0 and up to {MOST_BITS_PER_WEIGHT}, "
            f"found {budget:g}",
            hint="4.8 is a little more than 4 bits and their scales take",
        )
    if auto:
        raise BadDeclarationError(
            f"{name}: quant: expected bits_per_weight or keep.auto, found both",
            hint="say how large the artifact may be, or which share of it to keep at more bits",
        )


def recipes() -> list[Recipe]:
    """All shipped recipes."""
    return list(read_all(FOLDER, Recipe))


def recipe_for(model: str) -> Recipe:
    """The shipped recipe whose name or hub id is `model`, else the default one."""
    shipped = recipes()
    for recipe in shipped:
        if recipe.name != DEFAULT and model.lower() in (recipe.name, recipe.model.id.lower()):
            return recipe
    return next(recipe for recipe in shipped if recipe.name == DEFAULT)
