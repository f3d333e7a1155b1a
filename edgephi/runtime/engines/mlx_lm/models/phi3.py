"""mlx-lm's own Phi-3, with its head by itself, and with embeddings in the place of ids."""

from typing import Any

from edgephi.runtime.engines.mlx_lm.package import engine_module

_theirs: Any = engine_module("phi3")
_base: Any = engine_module("base")


class MlxPhi3(_theirs.Model):  # type: ignore[misc]
    """As mlx-lm computes it."""

    def head(self, hidden: Any) -> Any:
        """Logits [..., vocabulary] of hidden states [..., hidden]."""
        return (
            self.model.embed_tokens.as_linear(hidden)
            if self.args.tie_word_embeddings
            else self.lm_head(hidden)
        )

    def hidden_states(self, embedded: Any, cache: Any) -> Any:
        """Hidden states [batch, count, hidden] of embeddings [batch, count, hidden]; `cache` is a list."""
        mask = _base.create_attention_mask(embedded, cache[0])
        for layer, own in zip(self.model.layers, cache, strict=True):
            embedded = layer(embedded, mask, own)
        return self.model.norm(embedded)


CLASSES = (MlxPhi3, _theirs.ModelArgs)
