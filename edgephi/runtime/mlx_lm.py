"""The adapter of mlx-lm (`pip install 'edgephi[mlx]'`), checked against its version 0.31.

Of mlx-lm it takes the model and the KV cache. The loop around them is ours, because mlx-lm's own is bound
to the device that was the default when it was imported, and text goes through the `tokenizers` library.
The package mlx-lm itself is never imported: it pulls in transformers, and PyTorch where there is one, which
takes seconds.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from edgephi.errors import BadBundleError, DoesNotFitError, NotSupportedError
from edgephi.manifest import ARTIFACT_FOLDER, Manifest
from edgephi.runtime.checkpoint_text import CheckpointTokenizer, render_chat
from edgephi.runtime.engines import TextStream, check_version

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAME = "mlx-lm"
PROVIDERS = ("metal", "cpu")
STAND_INS = {"metal": "cpu"}

_PACKAGE = "mlx_lm"
_DATA_FILE = "model.safetensors"
_CONFIG_FILE = "config.json"
_TOKENIZER_FILE = "tokenizer.json"
# A prompt is computed in pieces, so that Ctrl-C and memory are bounded. MLX's CPU kernels gain nothing from
# more rows at once; a GPU does.
_PREFILL_TOKENS = {"metal": 512, "cpu": 16}
_DEVICES = {"metal": "gpu", "cpu": "cpu"}  # as MLX calls them
# MLX keeps freed memory for the next computation; it is given back once in so many tokens.
_TOKENS_BETWEEN_CLEANING = 256


def extra(provider: str) -> str:  # noqa: ARG001 - one package for both
    """The extra of edgephi that installs the engine."""
    return "mlx"


def installed_version() -> str | None:
    """The version of the engine that is installed, None without one."""
    try:
        return metadata.version(NAME)
    except metadata.PackageNotFoundError:
        return None


def provider_problem(provider: str) -> str | None:
    """Why the installed engine cannot use `provider` here; None when it can."""
    try:
        import mlx.core as mx
    except ModuleNotFoundError:
        return None  # what to install is for `open_engine` to say
    except ImportError as cause:
        return f"MLX cannot be loaded: {_one_line(cause)}"
    if provider == "metal" and not mx.metal.is_available():
        return "Metal is not available: it needs a Mac with an Apple chip"
    return None


def open_engine(bundle: Path, manifest: Manifest, *, context: int, provider: str) -> MlxEngine:  # noqa: ARG001
    """Load the model in `bundle` after checking the engine's version. Raises EdgephiError.

    The KV cache grows with the text, so nothing is set aside for `context`.
    """
    try:
        import mlx.core
        import mlx.nn
        import tokenizers  # type: ignore[import-untyped] # noqa: F401 - found missing here, not later

        modules = _engine_modules()
    except ImportError as cause:
        if isinstance(cause, ModuleNotFoundError):
            problem = f"this bundle runs on {NAME}, which is not installed"
        else:  # installed, but not for this machine: a missing system library, another architecture
            problem = f"this bundle runs on {NAME}, which cannot be loaded: {_one_line(cause)}"
        raise NotSupportedError(problem, hint=f"pip install 'edgephi[{extra(provider)}]'") from None
    version = installed_version() or "unknown"
    check_version(NAME, version, manifest.requires.engines.get(NAME, ""))
    return MlxEngine(
        mlx=mlx,
        modules=modules,
        artifact=bundle / ARTIFACT_FOLDER,
        manifest=manifest,
        version=version,
        provider=provider,
    )


def _engine_modules() -> tuple[ModuleType, ModuleType]:
    """mlx-lm's Phi-3 model and its KV cache, without what the package imports for its command line.

    They lie in a package of our own name with mlx-lm's path, so that `import mlx_lm` elsewhere in this
    process still gets the whole of it.
    """
    alias = f"_edgephi_{_PACKAGE}"
    if alias not in sys.modules:
        found = importlib.util.find_spec(_PACKAGE)  # does not run the package
        if found is None or found.submodule_search_locations is None:
            raise ModuleNotFoundError(f"No module named {_PACKAGE!r}", name=_PACKAGE)
        package = ModuleType(alias)
        package.__path__ = list(found.submodule_search_locations)
        sys.modules[alias] = package
    phi3 = importlib.import_module(f"{alias}.models.phi3")
    return phi3, importlib.import_module(f"{alias}.models.cache")


class MlxEngine:
    """One loaded model. The KV cache lives as long as one `generate` or `logits` call."""

    name = NAME

    def __init__(
        self,
        *,
        mlx: Any,
        modules: tuple[ModuleType, ModuleType],
        artifact: Path,
        manifest: Manifest,
        version: str,
        provider: str,
    ) -> None:
        self.version = version
        self.provider = provider
        self._mx = mlx.core
        self._device = mlx.core.Device(getattr(mlx.core, _DEVICES[provider]), 0)
        phi3, self._cache = modules
        self._template = manifest.chat.template
        self._stop_token_ids = frozenset(manifest.chat.stop_token_ids)
        with _translated(f"{artifact}: expected a model that {NAME} {version} can read"):
            self._tokenizer = CheckpointTokenizer(artifact / _TOKENIZER_FILE)
            with mlx.core.stream(self._device):
                self._model = _load_model(mlx, phi3, artifact, provider)
        if provider == "metal":
            # As mlx-lm does: weights that are to be read for every token are not paged out.
            mlx.core.set_wired_limit(mlx.core.device_info()["max_recommended_working_set_size"])

    def render_chat(self, messages: Sequence[dict[str, str]]) -> str:
        """The prompt text of a conversation, rendered with the template of the manifest."""
        return render_chat(self._template, messages)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; special tokens written in it become their ids."""
        return self._tokenizer.encode(text)

    def decode_stream(self, before: int) -> TextStream:
        """A decoder for the tokens that follow `before`, which decides about a space at the start."""
        return self._tokenizer.decode_stream(before)

    def generate(
        self,
        prompt: Sequence[int],
        *,
        length: int,
        temperature: float,
        top_p: float,
        top_k: int,
        seed: int | None,
    ) -> Iterator[int]:
        """The tokens that follow `prompt`, a stop token included, until there are `length` tokens in all."""
        if len(prompt) >= length:
            return
        mx = self._mx
        cache = self._cache.make_prompt_cache(self._model)
        choose = self._greedy if temperature == 0 else self._sampler(temperature, top_p, top_k, seed)
        # The last token of the prompt goes alone: logits after the others are never computed.
        for piece in _pieces(prompt[:-1], _PREFILL_TOKENS[self.provider]):
            with _translated(f"expected to prefill {len(piece)} tokens"), mx.stream(self._device):
                self._model(mx.array([piece]), cache=cache)
                mx.eval([layer.state for layer in cache])
                mx.clear_cache()
        chosen = self._step(mx.array(prompt[-1:]), cache, choose)
        for place in range(len(prompt), length):
            # The next token is on its way before this one is looked at, so that the device never waits.
            following = self._step(chosen, cache, choose) if place + 1 < length else None
            with _translated("expected a next token"):
                token = int(chosen.item())
            yield token
            if token in self._stop_token_ids:
                return
            chosen = following
            if place % _TOKENS_BETWEEN_CLEANING == 0:
                mx.clear_cache()

    def logits(self, token_ids: Sequence[int], *, step: int) -> Iterator[NDArray[np.float32]]:
        """Logits after each of `token_ids`: arrays of (step, vocabulary), the last one maybe shorter."""
        import numpy as np

        mx = self._mx
        cache = self._cache.make_prompt_cache(self._model)
        for piece in _pieces(token_ids, step):
            with _translated("expected logits"), mx.stream(self._device):
                block = self._model(mx.array([piece]), cache=cache)[0].astype(mx.float32)
                array = np.array(block)  # (step, vocabulary)
            yield array

    def _step(self, token: Any, cache: Any, choose: Callable[[Any], Any]) -> Any:
        """Begin to compute the token after `token`; both are arrays [1]."""
        mx = self._mx
        with _translated("expected a next token"), mx.stream(self._device):
            logits = self._model(token[None], cache=cache)[:, -1, :]  # [1, vocabulary]
            chosen = choose(logits)
            mx.async_eval(chosen)
        return chosen

    def _greedy(self, logits: Any) -> Any:
        """The most likely token, [1], of logits [1, vocabulary]."""
        return self._mx.argmax(logits, axis=-1)

    def _sampler(
        self, temperature: float, top_p: float, top_k: int, seed: int | None
    ) -> Callable[[Any], Any]:
        """What draws a token, [1], from logits [1, vocabulary]."""
        mx = self._mx
        key = mx.random.key(secrets.randbits(31) if seed is None else seed)

        def draw(logits: Any) -> Any:
            nonlocal key
            key, own_key = mx.random.split(key)
            scores = logits.astype(mx.float32) / temperature
            if 0 < top_k < scores.shape[-1]:
                candidates = mx.argpartition(-scores, kth=top_k - 1, axis=-1)[:, :top_k]
            else:
                candidates = mx.arange(scores.shape[-1])[None]
            scores = mx.take_along_axis(scores, candidates, axis=-1)  # [1, candidates]
            if top_p < 1:
                order = mx.argsort(-scores, axis=-1)
                candidates = mx.take_along_axis(candidates, order, axis=-1)
                scores = mx.take_along_axis(scores, order, axis=-1)
                shares = mx.softmax(scores, axis=-1)
                likelier = mx.cumsum(shares, axis=-1) - shares  # probability of all before it
                scores = mx.where(likelier < top_p, scores, -mx.inf)
            drawn = mx.random.categorical(scores, key=own_key)  # [1]
            return mx.take_along_axis(candidates, drawn[:, None], axis=-1)[:, 0]

        return draw


def _load_model(mlx: Any, phi3: ModuleType, artifact: Path, provider: str) -> Any:
    """What `mlx_lm.load` makes of the artifact.

    On a CPU everything that is float16 becomes float32 first, which changes no weight: outside of Apple's
    processors MLX computes float16 in software, 37 times slower.
    """
    mx = mlx.core
    config = json.loads((artifact / _CONFIG_FILE).read_bytes())
    model = phi3.Model(phi3.ModelArgs.from_dict(config))
    weights = mx.load(str(artifact / _DATA_FILE))
    quantization = config["quantization"]
    mlx.nn.quantize(
        model,
        group_size=quantization["group_size"],
        bits=quantization["bits"],
        class_predicate=lambda path, _: quantization.get(path, f"{path}.scales" in weights),
    )
    if provider == "cpu":
        weights = {
            name: array.astype(mx.float32) if array.dtype == mx.float16 else array
            for name, array in weights.items()
        }
    model.load_weights(list(weights.items()), strict=True)
    mx.eval(model.parameters())
    return model


def _pieces(token_ids: Sequence[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(token_ids), size):
        yield list(token_ids[start : start + size])


@contextlib.contextmanager
def _translated(doing: str) -> Iterator[None]:
    """The one place where the engine's exceptions become ours: it has no classes of its own.

    Versions, memory and lengths were checked before, so what fails now is the bundle's content.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except Exception as cause:
        found = _one_line(cause)
        if isinstance(cause, MemoryError) or "alloc" in found.lower():
            raise DoesNotFitError(
                f"{doing}: not enough memory: {found}",
                hint="stop other programs, or ask for fewer tokens (--max-tokens)",
            ) from cause
        hint = "copy the bundle again and check it with `edgephi verify`"
        raise BadBundleError(f"{doing}, found: {found}", hint=hint) from cause


def _one_line(cause: BaseException) -> str:
    return " ".join(str(cause).split()) or type(cause).__name__
