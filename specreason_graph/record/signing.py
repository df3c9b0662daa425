"""Signing the head of a ledger, so that whoever owns the database cannot rebuild the chain. Needs ``cryptography``."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Self

from specreason_graph.errors import ConfigError
from specreason_graph.record.records import Signature

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KEY_VARIABLE = "SPECREASON_SIGNING_KEY"
MAKE_KEY = "make a key with: openssl genpkey -algorithm ed25519 -out key.pem"
CONTEXT = b"specreason ledger head "
"""Put before what is signed, so that a signature stands for nothing else."""
FILE = re.compile(r"[^/]\.(pem|key|pub|der|crt|txt)$", re.IGNORECASE)
"""How the name of a key's file ends."""
SHORTEST = 40
"""Characters of the shortest text of a key: 32 bytes in Base64 are 43."""


class Signer:
    """Signs with an Ed25519 private key; it is never stored or shown."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def read(cls, pem: str | Path) -> Self:
        """A signer from a private key, the path of a PEM file or its text; `ConfigError` if it is none."""
        _require()
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            key = load_pem_private_key(_pem(pem), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ConfigError(f"the signing key cannot be read: {error}", hint=MAKE_KEY) from None
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError(f"the signing key is {type(key).__name__} and not Ed25519", hint=MAKE_KEY)
        return cls(key)

    @classmethod
    def from_environment(cls) -> Self | None:
        """A signer from the key or path in ``SPECREASON_SIGNING_KEY``; None where that is not set."""
        pem = os.environ.get(KEY_VARIABLE)
        return cls.read(pem) if pem else None

    def sign(self, head: str) -> Signature:
        """The signature of a head, a hash in hexadecimal."""
        return Signature(
            key=self._key.public_key().public_bytes_raw().hex(), value=self._key.sign(CONTEXT + head.encode()).hex()
        )


def read_public_key(given: str) -> str:
    """A public key as raw hexadecimal, from that, a PEM file or its text; `ConfigError` if it is none."""
    _require()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        if len(given) == 64:
            return Ed25519PublicKey.from_public_bytes(bytes.fromhex(given)).public_bytes_raw().hex()
        key = load_pem_public_key(_pem(given))
        if isinstance(key, Ed25519PublicKey):
            return key.public_bytes_raw().hex()
        problem = f"it is {type(key).__name__}"
    except (ValueError, UnsupportedAlgorithm) as error:
        problem = "it is the private half" if b"PRIVATE KEY" in _pem(given) else str(error)
    raise ConfigError(
        f"{_shown(given)!r} is no Ed25519 public key: {problem}",
        hint="write 64 hexadecimal digits or the path of a PEM file, as from: openssl pkey -in key.pem -pubout",
    )


def is_signed_by(head: str, signature: Signature, key: str) -> bool:
    """Whether ``signature`` of ``head`` was made with the private half of ``key``, raw in hexadecimal."""
    _require()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        public, value = bytes.fromhex(key), bytes.fromhex(signature.value)
        Ed25519PublicKey.from_public_bytes(public).verify(value, CONTEXT + head.encode())
    except (InvalidSignature, ValueError):
        return False
    return (signature.key, signature.value) == (public.hex(), value.hex())  # hexadecimal can be written in many ways


def _pem(given: str | Path) -> bytes:
    if isinstance(given, str) and given.lstrip().startswith("-----BEGIN"):
        return given.encode()
    try:
        return Path(given).expanduser().read_bytes()
    except (OSError, ValueError, RuntimeError) as error:  # no file; no path at all; the home of nobody
        why = getattr(error, "strerror", None) or "it is no path"
        raise ConfigError(f"cannot read the key file {_shown(given)}: {why}", hint=MAKE_KEY) from None


def _shown(given: str | Path) -> str:
    """What was given for a key, if it is the name of a file: a key without its PEM header must not be printed."""
    text = str(given)
    is_name = text.isprintable() and (len(text) < SHORTEST or FILE.search(text))
    return text if is_name else f"(a text of {len(text)} characters that is not shown, as it may be the key)"


def _require() -> None:
    if find_spec("cryptography") is None:
        hint = 'install it with pip install "specreason-graph[signing]"'
        raise ConfigError("signatures need cryptography", hint=hint)
