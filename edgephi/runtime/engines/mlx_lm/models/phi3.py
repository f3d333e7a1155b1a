"""mlx-lm's own Phi-3, with its head by itself."""

from typing import Any

from edgephi.runtime.engines.mlx_lm.package import engine_module

_theirs: Any = engine_module("phi3")


class MlxPhi3(_theirs.Model):  # type: ignore[misc]
    """As mlx-lm computes it."""

    def head(self, hidden: Any) -> Any:
        """Logits [..., vocabulary] of hidden states [..., hidden]."""
        return (
            self.model.embed_tokens.as_linear(hidden)
            if self.args.tie_word_embeddings
            else self.lm_head(hidden)
        )


CLASSES = (MlxPhi3, _theirs.ModelArgs)
