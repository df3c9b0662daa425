"""A model on disk or on the hub: its configuration, tokenizer, size and hash."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from specreason_graph.engines.vocabulary import HuggingFaceVocabulary
from specreason_graph.errors import ModelError

RECOMMENDED = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""Fields of a generation config that say how a model is best sampled."""
HINT = "name a folder with config, tokenizer and safetensors"


def check_folder(path: str) -> None:
    """Raise `ModelError` for a path that is no model folder and cannot be a name on the hub."""
    folder = Path(path)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ModelError(f"folder {path!r} is no model: it has no config.json", hint="name a Hugging Face model folder")
    if not folder.is_dir() and (folder.exists() or path.startswith((".", "/", "~"))):
        raise ModelError(f"model {path!r} is not a folder", hint="check the path")


def check_found(path: str, revision: str | None = None) -> None:
    """Raise `ModelError` for what is neither a model folder nor, as far as can be told at once, a model on the hub."""
    from huggingface_hub import model_info, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    check_folder(path)
    if Path(path).is_dir() or os.environ.get("VLLM_USE_MODELSCOPE"):  # then vLLM loads from another hub
        return
    try:
        if not isinstance(try_to_load_from_cache(path, "config.json", revision=revision), str):
            model_info(path, revision=revision, timeout=10)
        return
    except (HFValidationError, RepositoryNotFoundError):
        problem = "it is no folder, and the Hugging Face hub has no model of that name"
    except HfHubHTTPError:  # the hub knows it, and has something against it: loading says what
        return
    except Exception as error:  # no network; which error that is depends on the version of the library
        problem = f"it is no folder, it is not in the cache, and the Hugging Face hub is out of reach ({error})"
    raise ModelError(f"model {path!r} cannot be found: {problem}", hint=f"check the name, or {HINT}")


def unloadable(path: str, error: Exception) -> ModelError:
    """Return a `ModelError` with the cause in one line."""
    # The libraries explain a failure over many lines; the first one names the cause.
    cause = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return ModelError(f"model {path!r} cannot be loaded: {cause}", hint=HINT)


def load_tokenizer(path: str, revision: str | None = None) -> Any:
    """Load the tokenizer of a model."""
    from transformers import AutoTokenizer

    check_folder(path)
    try:
        return AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False)
    except Exception as error:  # transformers and its dependencies raise exceptions of any kind
        raise unloadable(path, error) from None


def load_config(path: str, revision: str | None = None) -> Any:
    """Load the configuration of a model's text part."""
    from transformers import AutoConfig

    check_folder(path)
    try:
        return AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False).get_text_config()
    except Exception as error:
        raise unloadable(path, error) from None


def load_vocabulary(path: str, revision: str | None = None) -> HuggingFaceVocabulary:
    """Load the vocabulary of a model, with the end-of-sequence tokens of its generation config."""
    rows = getattr(load_config(path, revision), "vocab_size", None)
    vocabulary = HuggingFaceVocabulary(
        load_tokenizer(path, revision),
        eos_ids(_generation_config(path, revision)),
        rows if isinstance(rows, int) else 0,
    )
    vocabulary.check()
    return vocabulary


def recommended_sampling(path: str, revision: str | None = None) -> dict[str, float]:
    """Return the sampling that the makers of a model recommend, as its generation config has it; often empty."""
    config = _generation_config(path, revision)
    named = config.to_diff_dict() if config else {}
    return {name: named[name] for name in RECOMMENDED if isinstance(named.get(name), int | float)}


def eos_ids(generation_config: Any) -> Sequence[int]:
    """Return the tokens with which a generation config ends a reply."""
    eos = getattr(generation_config, "eos_token_id", None)
    return [eos] if isinstance(eos, int) else eos or []


def weights_hash(path: str) -> str:
    """Return the SHA-256 over the safetensors files of a folder; empty for a name on the hub."""
    files = sorted(Path(path).glob("*.safetensors"))
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as weights:
            digest.update(hashlib.file_digest(weights, "sha256").digest())
    return digest.hexdigest() if files else ""


def file_bytes(path: str, revision: str | None = None) -> int:
    """Return the bytes of a model's safetensors files, in a folder or on the hub; 0 when they are not known."""
    from huggingface_hub import model_info

    if Path(path).is_dir():
        sizes = {file.name: file.stat().st_size for file in Path(path).glob("*.safetensors")}
    else:
        try:
            siblings = model_info(path, revision=revision, files_metadata=True, timeout=10).siblings or []
        except Exception:  # no network, or no such model: loading the model reports it
            return 0
        sizes = {file.rfilename: file.size or 0 for file in siblings if file.rfilename.endswith(".safetensors")}
    # Some repositories hold the weights twice: in shards, and once more as consolidated.*.
    sharded = {name: size for name, size in sizes.items() if not name.startswith("consolidated")}
    return sum((sharded or sizes).values())


def _generation_config(path: str, revision: str | None) -> Any:
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(path, revision=revision or "main")
    except OSError:
        return None
