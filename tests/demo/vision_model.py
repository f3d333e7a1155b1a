"""Phi-3-vision in PyTorch: transformers' CLIP and Phi-3, joined as modeling_phi3_v.py joins them.

No class of transformers is the whole. Both halves here are its own, so that a checkpoint in the published
form can be trained, and an answer examined, without a line of ours that is under test.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.nn.utils.rnn import pad_sequence
from transformers import CLIPVisionConfig, CLIPVisionModel, Phi3Config, Phi3ForCausalLM

from edgephi.bundle.image_tokens import SEPARATOR, row_order
from tests.runtime.images.published_processor import PUBLISHED, Published

VISION = "model.vision_embed_tokens."
_CLIP = f"{VISION}img_processor.vision_model."
_OURS = {
    f"{VISION}sub_GN": "line_end",
    f"{VISION}glb_GN": "separator",
    **{
        f"{VISION}img_projection.{i}.{kind}": f"projection.{i}.{kind}"
        for i in (0, 2)
        for kind in ("weight", "bias")
    },
}


@dataclass(frozen=True)
class Prompt:
    """A text with pictures, in the order in which their tokens stand in it: ids below 0."""

    ids: tuple[int, ...]
    images: tuple[Published, ...]
    tokens: tuple[torch.Tensor, ...] | None = None
    """What each picture is, [its tokens, hidden], where that is known already."""


class VisionModel(torch.nn.Module):
    """The whole. `config` is a config.json of model_type phi3_v, the encoder's sizes in its img_processor."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        sizes = config["img_processor"]
        clip = {name: size for name, size in sizes.items() if name not in _NOT_CLIP}
        self.clip = CLIPVisionModel(CLIPVisionConfig(**clip, hidden_act="quick_gelu"))
        keys = {key: value for key, value in config.items() if key not in _NOT_PHI_3}
        self.decoder = Phi3ForCausalLM(Phi3Config(**keys))
        merged, hidden = 4 * sizes["hidden_size"], config["hidden_size"]
        self.line_end = torch.nn.Parameter(torch.randn(1, 1, 1, merged) * 0.02)
        self.separator = torch.nn.Parameter(torch.randn(1, 1, merged) * 0.02)
        self.projection = torch.nn.Sequential(
            torch.nn.Linear(merged, hidden), torch.nn.GELU(), torch.nn.Linear(hidden, hidden)
        )
        self.facts = replace(
            PUBLISHED, tile=sizes["image_size"], patch=sizes["patch_size"], hidden_size=hidden
        )

    def encode(self, tiles: torch.Tensor) -> torch.Tensor:
        """Pixels [n, 3, tile, tile] as merged features [n * side * side, 4 * hidden], not yet projected."""
        hidden = self.clip.pre_layrnorm(self.clip.embeddings(tiles))
        # The features are those before the last layer, which is in the checkpoint for nothing.
        for layer in self.clip.encoder.layers[:-1]:
            hidden = layer(hidden, attention_mask=None)
        patches, side = hidden[:, 1:], self.facts.side
        blocks = patches.reshape(len(tiles), side, 2, side, 2, -1).permute(0, 1, 3, 2, 4, 5)
        return torch.as_tensor(blocks.reshape(len(tiles) * side * side, -1))

    def image_embeddings(self, images: Sequence[Published]) -> torch.Tensor:
        """All image tokens of pictures, one after the other: [tokens, hidden]."""
        encoded = self.encode(torch.cat([image.pixels for image in images]).float())
        table = torch.cat([self.line_end.flatten()[None], self.separator.flatten()[None], encoded])
        rows: list[int] = []
        before = 0  # rows of the pictures before
        for image in images:
            grid = image.height // self.facts.tile, image.width // self.facts.tile
            rows += [row if row <= SEPARATOR else row + before for row in row_order(grid, self.facts)]
            before += len(image.pixels) * self.facts.side**2
        embedded: torch.Tensor = self.projection(table)[torch.tensor(rows)]
        return embedded

    def embeddings(self, prompts: Sequence[Prompt]) -> torch.Tensor:
        """The embeddings of prompts, [prompts, longest, hidden]; shorter ones are padded on the right."""
        ids = pad_sequence([torch.tensor(prompt.ids) for prompt in prompts], batch_first=True)
        embedded = self.decoder.model.embed_tokens(ids.clamp(min=0))
        shown = [image for prompt in prompts for image in prompt.images]
        if not shown:
            return torch.as_tensor(embedded)
        known = [tokens for prompt in prompts for tokens in prompt.tokens or ()]
        images = torch.cat(known) if len(known) == len(shown) else self.image_embeddings(shown)
        # Pictures stand in the order of their prompts, and so do their tokens.
        return torch.as_tensor(embedded).masked_scatter((ids < 0)[..., None], images.to(embedded.dtype))

    def forward(self, prompts: Sequence[Prompt]) -> torch.Tensor:
        """Logits [prompts, longest, vocabulary]."""
        output = self.decoder(inputs_embeds=self.embeddings(prompts), use_cache=False)
        return torch.as_tensor(output.logits)

    def published_names(self) -> dict[str, torch.Tensor]:
        """The tensors under the names of the published checkpoint."""
        ours = {ours: published for published, ours in _OURS.items()}
        tensors = {}
        for name, tensor in self.state_dict().items():
            part, _, rest = name.partition(".")
            if part == "decoder":
                tensors[rest] = tensor
            elif part == "clip":
                tensors[_CLIP + rest.removeprefix("vision_model.")] = tensor
            else:
                tensors[ours[name]] = tensor
        return {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}


_NOT_CLIP = ("image_dim_out", "model_name", "name", "num_img_tokens")
_NOT_PHI_3 = ("architectures", "model_type", "torch_dtype", "img_processor", "embd_layer", "auto_map")


def load_vision_model(folder: Path) -> VisionModel:
    """The model of a checkpoint's folder, in float32."""
    model = VisionModel(json.loads((folder / "config.json").read_text()))
    tensors = load_file(folder / "model.safetensors")
    clip = (
        "vision_model." if any(name.startswith("vision_model.") for name in model.clip.state_dict()) else ""
    )
    state = {}
    for name, tensor in tensors.items():
        if name in _OURS:
            state[_OURS[name]] = tensor
        elif name.startswith(_CLIP):
            state[f"clip.{clip}{name.removeprefix(_CLIP)}"] = tensor
        else:
            state[f"decoder.{name}"] = tensor
    missing, unexpected = model.load_state_dict({k: t.float() for k, t in state.items()}, strict=False)
    if unexpected or any("position_ids" not in name for name in missing):
        raise ValueError(f"{folder}: missing {missing}, unexpected {unexpected}")
    return model.eval()
