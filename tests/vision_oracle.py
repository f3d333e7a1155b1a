"""What a Phi-3-vision says, by the classes of transformers: none is for it whole, so two are joined here.

The joining follows the published `modeling_phi3_v.py` line by line, and shares nothing with edgephi.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from transformers import CLIPVisionConfig, CLIPVisionModel, Phi3Config, Phi3ForCausalLM

Floats = NDArray[np.float32]

_PREFIX = "model.vision_embed_tokens."


class VisionOracle:
    """The checkpoint in a folder, in float32."""

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        state: dict[str, torch.Tensor] = {}
        for shard in sorted(folder.glob("*.safetensors")):
            state |= {name: tensor.float() for name, tensor in load_file(shard).items()}
        self.state = state
        seeing = config["img_processor"]
        self.encoder = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=seeing.get("hidden_size", 1024),
                intermediate_size=seeing.get("intermediate_size", 4096),
                num_hidden_layers=seeing.get("num_hidden_layers", 24),
                num_attention_heads=seeing.get("num_attention_heads", 16),
                image_size=seeing.get("image_size", 336),
                patch_size=seeing.get("patch_size", 14),
                hidden_act="quick_gelu",
                layer_norm_eps=1e-5,
            )
        ).eval()
        names = set(self.encoder.state_dict())
        own = {name.removeprefix(f"{_PREFIX}img_processor."): each for name, each in state.items()}
        bare = {name.removeprefix("vision_model."): each for name, each in own.items()}
        self.encoder.load_state_dict(
            {name: (own | bare)[name] for name in names if not name.endswith("position_ids")}, strict=False
        )
        scaling = config.get("rope_scaling")
        if scaling is not None:
            scaling = {**scaling, "type": "longrope"}
        kept = {key: value for key, value in config.items() if key not in ("model_type", "rope_scaling")}
        kept = {key: value for key, value in kept.items() if key not in ("img_processor", "embd_layer")}
        self.decoder = Phi3ForCausalLM(
            Phi3Config(**kept, rope_scaling=scaling, attn_implementation="eager")
        ).eval()
        words = {name: each for name, each in state.items() if not name.startswith(_PREFIX)}
        self.decoder.load_state_dict(words)

    def tiles(self, pixels: Floats) -> torch.Tensor:
        """What the encoder makes of tiles [n, 3, tile, tile], not projected yet: [n, patches, hidden]."""
        with torch.no_grad():
            states = self.encoder(torch.from_numpy(pixels), output_hidden_states=True).hidden_states
        found: torch.Tensor = states[-2][:, 1:]
        return found

    def image(self, pixels: Floats, grid: tuple[int, int]) -> torch.Tensor:
        """The tokens of an image for the decoder, [tokens, hidden], as `Phi3ImageEmbedding` makes them."""
        found = self.tiles(pixels)
        hidden, side = found.shape[-1], int(found.shape[1] ** 0.5) // 2

        def merged(tiles: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
            squares = tiles.reshape(rows * columns, side, 2, side, 2, hidden).permute(0, 1, 3, 2, 4, 5)
            squares = squares.reshape(1, rows, columns, side, side, 4 * hidden).permute(0, 1, 3, 2, 4, 5)
            return squares.reshape(rows * side, columns * side, 4 * hidden)

        def with_ends(lines: torch.Tensor) -> torch.Tensor:
            end = self.state[f"{_PREFIX}sub_GN"].reshape(1, 1, -1).expand(len(lines), 1, -1)
            return torch.cat([lines, end], 1).reshape(-1, 4 * hidden)

        rows, columns = grid
        tokens = torch.cat(
            [
                with_ends(merged(found[1 : 1 + rows * columns], rows, columns)),
                self.state[f"{_PREFIX}glb_GN"].reshape(1, -1),
                with_ends(merged(found[:1], 1, 1)),
            ]
        )
        wide = torch.nn.functional.gelu(self._linear(0, tokens))
        return self._linear(2, wide)

    def _linear(self, place: int, x: torch.Tensor) -> torch.Tensor:
        name = f"{_PREFIX}img_projection.{place}"
        return torch.nn.functional.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def logits(self, ids: list[int], rows: Any) -> torch.Tensor:
        """Logits after each of `ids`, [tokens, vocabulary]; -1 is the first of `rows`, -2 the second."""
        tokens = torch.tensor(ids)
        with torch.no_grad():
            embedded = self.decoder.model.embed_tokens(tokens.clamp(min=0))
            seen = tokens < 0
            embedded[seen] = torch.as_tensor(rows)[-1 - tokens[seen]]
            found: torch.Tensor = self.decoder(inputs_embeds=embedded[None], use_cache=False).logits[0]
        return found
