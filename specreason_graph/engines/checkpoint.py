"""A model as it lies on disk or on the hub: its configuration, its tokenizer, its size and its hash."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from specreason_graph.engines.vocabulary import HuggingFaceVocabulary
from specreason_graph.errors import ModelError

HINT = "name a folder with config, tokenizer and safetensors"


def check_folder(path: str) -> None:
    """Raise `ModelError` for what is neither a model folder nor could be a name on the hub."""
    folder = Path(path)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ModelError(f"folder {path!r} is no model: it has no config.json", hint="name a Hugging Face model folder")
    if not folder.is_dir() and (folder.exists() or path.startswith((".", "/", "~"))):
        raise ModelError(f"model {path!r} is not a folder", hint="check the path")


def unloadable(path: str, error: Exception) -> ModelError:
    """One line for the many ways in which the libraries fail to load a model."""
    cause = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return ModelError(f"model {path!r} cannot be loaded: {cause}", hint=HINT)


def load_tokenizer(path: str, revision: str | None = None) -> Any:
    """The tokenizer of a model."""
    from transformers import AutoTokenizer

    check_folder(path)
    try:
        return AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False)
    except Exception as error:  # the libraries raise every kind there is
        raise unloadable(path, error) from None


def load_config(path: str, revision: str | None = None) -> Any:
    """The configuration of a model's text part."""
    from transformers import AutoConfig

    check_folder(path)
    try:
        return AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False).get_text_config()
    except Exception as error:
        raise unloadable(path, error) from None


def load_vocabulary(path: str, revision: str | None = None) -> HuggingFaceVocabulary:
    """The vocabulary of a model, with the end-of-sequence tokens of its generation config."""
    return HuggingFaceVocabulary(load_tokenizer(path, revision), eos_ids(_generation_config(path, revision)))


def eos_ids(generation_config: Any) -> Sequence[int]:
    """The tokens a generation config ends a reply with."""
    eos = getattr(generation_config, "eos_token_id", None)
    return [eos] if isinstance(eos, int) else eos or []


def weights_hash(path: str) -> str:
    """SHA-256 over the safetensors files of a folder; empty for what is no folder here."""
    files = sorted(Path(path).glob("*.safetensors"))
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as weights:
            digest.update(hashlib.file_digest(weights, "sha256").digest())
    return digest.hexdigest() if files else ""


def file_bytes(path: str, revision: str | None = None) -> int:
    """Bytes of the safetensors files of a folder or of a name on the hub; 0 where they cannot be found out."""
    from huggingface_hub import model_info

    if Path(path).is_dir():
        sizes = {file.name: file.stat().st_size for file in Path(path).glob("*.safetensors")}
    else:
        try:
            siblings = model_info(path, revision=revision, files_metadata=True, timeout=10).siblings or []
        except Exception:  # no network, no such model: whoever loads it will say so
            return 0
        sizes = {file.rfilename: file.size or 0 for file in siblings if file.rfilename.endswith(".safetensors")}
    sharded = {name: size for name, size in sizes.items() if not name.startswith("consolidated")}
    return sum((sharded or sizes).values())


def _generation_config(path: str, revision: str | None) -> Any:
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(path, revision=revision or "main")
    except OSError:
        return None
