"""Encryption at rest: what is stored can be read with a key only, and only where it was written.

The rule: this module makes bytes of bytes and knows nothing of what they are; `codec/` calls it where values become
what is stored. So everything that holds what users gave goes through here: bodies of rows, snapshots, signals,
values in a cache. The hash chain is over what comes out, so whoever verifies or exports needs no key of these.

    00 64 67 01 | id of the key, 8 bytes | nonce, 24 | encrypted, and its tag of 16

No JSON begins with a zero byte, so what was written before there was a key is still known for what it is.

The cipher is XAES-256-GCM (https://c2sp.org/XAES-256-GCM): AES-256-GCM under a key that is made of ours and of the
first half of the nonce. Plain AES-GCM has nonces of 96 bits, and taken at random they are safe for 2^32 rows under one
key, which a busy database writes within weeks; to count them instead would take one counter for all processes and all
copies of the database, and 192 bits need none. Fernet, the simple choice, is a third larger and cannot do what comes
next: where the bytes are written (thread and step, say) is authenticated with them. So a row that is moved to another
place does not decrypt there.

The first half of the nonce is kept for 2^20 messages, as making a key costs ten times what encrypting a small row does.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import orjson

from durable_graph.codec import SEALED, KeyIsMissing, MalformedBytesError, Place
from durable_graph.errors import ArgumentError

# As callers give it: one or several, newest first, or a function that returns them
EncryptionKey: TypeAlias = (
    bytes | str | Sequence[bytes | str] | Callable[[], "bytes | str | Sequence[bytes | str]"] | None
)
VARIABLE = "DURABLE_GRAPH_ENCRYPTION_KEY"
MESSAGES = 2**20  # under one half of a nonce
ID, HALF = 8, 12  # bytes
HEAD = len(SEALED) + ID  # what stands before the nonce


def read_encryption(given: EncryptionKey, environment: str | None) -> Encryption | None:
    """The keys that were given, else those of the environment, which separates them with commas. None: no encryption.

    Raises ArgumentError for what is no key, and where `cryptography` is not installed.
    """
    if given is None:
        given = [key.strip() for key in (environment or "").split(",") if key.strip()]
    if callable(given):
        encryption = Encryption(given)
    elif keys := _several(given):
        encryption = Encryption(lambda: keys)
        encryption.ids()  # what is no key is refused now
    else:
        return None
    _check_installed()
    return encryption


class Encryption:
    """Encrypts with the first of some keys, decrypts with any of them. For any thread."""

    def __init__(self, keys: Callable[[], bytes | str | Sequence[bytes | str]]) -> None:
        """keys: called at first use, and again when something is met that no key fits: a new one may be there."""
        self._ask = keys
        self._known: dict[bytes, bytes] = {}  # by id, newest first
        self._half = b""  # of the nonce
        self._left = 0  # messages until there is to be another one

    def seal(self, data: bytes, place: Place) -> bytes:
        """`data` encrypted, to be stored at this place."""
        name, key = next(iter(self._keys().items()))
        if self._left <= 0:
            self._half, self._left = os.urandom(HALF), MESSAGES
        self._left -= 1
        half, rest = self._half, os.urandom(HALF)
        return b"".join((SEALED, name, half, rest, _cipher(key, half).encrypt(rest, data, _bound(place))))

    def open(self, data: bytes, place: Place) -> bytes:
        """What was sealed for this place. Raises KeyIsMissing; MalformedBytesError for what was altered or moved."""
        name, nonce = data[len(SEALED) : HEAD], data[HEAD : HEAD + 2 * HALF]
        key = self._keys().get(name) or self._keys(again=True).get(name)
        if key is None:
            raise KeyIsMissing(name.hex(), self.ids())
        from cryptography.exceptions import InvalidTag

        try:
            return bytes(_cipher(key, nonce[:HALF]).decrypt(nonce[HALF:], data[HEAD + 2 * HALF :], _bound(place)))
        except InvalidTag:
            problem = f"it does not decrypt with its key {name.hex()}: it was altered, or written at another place"
            raise MalformedBytesError(problem) from None

    def digest(self, data: bytes) -> str:
        """A name for `data` that nobody without the key can make, to see whether he has guessed the data."""
        key = next(iter(self._keys().values()))
        return hmac.digest(hmac.digest(key, b"durable_graph: digests", "sha256"), data, "sha256").hex()

    def ids(self) -> tuple[str, ...]:
        """Of the keys, newest first."""
        return tuple(name.hex() for name in self._keys())

    def _keys(self, *, again: bool = False) -> dict[bytes, bytes]:
        if again or not self._known:
            keys = [_key_of(key) for key in _several(self._ask())]
            if not keys:
                raise _refused("there is none", "The function given has to return a key, or several.")
            self._known = {_id_of(key): key for key in keys}
        return self._known


def _several(given: Any) -> list[Any]:
    return list(given) if isinstance(given, Iterable) and not isinstance(given, bytes | str) else [given]


def _key_of(given: Any) -> bytes:
    """32 bytes, as they are or in base64 or hexadecimal. Never a password: those are guessed."""
    if isinstance(given, str):
        text = given.strip()
        try:
            given = bytes.fromhex(text) if re.fullmatch(r"[0-9a-fA-F]{64}", text) else _from_base64(text)
        except (ValueError, binascii.Error):
            given = None
    if not isinstance(given, bytes) or len(given) != 32:
        raise _refused("it is not 32 bytes, nor their base64 or hexadecimal text", "Make one: openssl rand -base64 32")
    return given


def _from_base64(text: str) -> bytes:
    return base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)


def _refused(problem: str, fix: str) -> ArgumentError:
    return ArgumentError(argument=f"encryption_key or ${VARIABLE}", problem=problem, fix=fix)


def _check_installed() -> None:
    try:
        from cryptography.hazmat.primitives.ciphers import aead  # noqa: F401
    except ImportError as error:
        problem = f"cryptography cannot be imported ({error})"
        raise _refused(problem, 'Run: pip install "durable-graph[encryption]"') from error


def _id_of(key: bytes) -> bytes:
    """A name for a key, from which it cannot be computed."""
    return hmac.digest(key, b"durable_graph: the id of this encryption key", "sha256")[:ID]


def _bound(place: Place) -> bytes:
    """The place as bytes: a JSON array, so that no two places give the same."""
    return orjson.dumps(place)


@lru_cache(maxsize=256)
def _cipher(key: bytes, half: bytes) -> Any:
    """XAES-256-GCM: AES-256-GCM under the key that CMAC makes of ours and of the first half of the nonce."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    def encrypted(blocks: bytes) -> bytes:
        return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(blocks)

    top = int.from_bytes(encrypted(bytes(16)))
    subkey = (top << 1) & (2**128 - 1) ^ (0x87 if top >> 127 else 0)
    counted = [int.from_bytes(bytes((0, number, 0x58, 0)) + half) ^ subkey for number in (1, 2)]
    return AESGCM(encrypted(b"".join(block.to_bytes(16) for block in counted)))
