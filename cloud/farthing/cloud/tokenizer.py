"""A model folder's tokenizer: texts to tokens and back to bytes, with control tokens kept apart from content."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from farthing.kit.errors import FailedPrecondition, Unimplemented

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class ModelTokenizer:
    """Built from tokenizer.json by the `tokenizers` library. Thread-safe."""

    def __init__(self, path: Path) -> None:
        """FailedPrecondition: library missing or file unreadable; Unimplemented: a kind without byte-exact tokens."""
        library = _load_library()
        try:
            text = path.read_text(encoding="utf-8")
            document: dict[str, Any] = json.loads(text)
            # Two of them, since reading control tokens as plain text is a switch on the whole tokenizer.
            self._with_specials = library.Tokenizer.from_str(text)
            self._plain = library.Tokenizer.from_str(text)
        except Exception as error:  # the library raises plain Exception
            raise FailedPrecondition(
                f"{path} cannot be read: {error}; export the model again",
                reason="TOKENIZER_INVALID",
                metadata={"path": str(path)},
            ) from error
        self._plain.encode_special_tokens = True
        added = self._with_specials.get_added_tokens_decoder()
        self.special_texts = frozenset(t.content for t in added.values() if t.special)
        self._vocabulary: dict[str, int] = self._with_specials.get_vocab()
        self._bytes = self._token_bytes(document, added)
        self.bos_ids = self._find_bos_ids()

    @property
    def vocab_size(self) -> int:
        """Tokens that stand for something; a model may have more rows."""
        return len(self._bytes)

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Tokens of a text; control tokens in it are read as such only with `special`."""
        tokenizer = self._with_specials if special else self._plain
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def token_bytes(self, token: int) -> bytes:
        """What a token adds to an answer; b"" for control tokens and rows without meaning."""
        return self._bytes.get(token, b"")

    def find(self, text: str) -> int | None:
        """The token of exactly this text, such as an end token's."""
        return self._vocabulary.get(text)

    def _find_bos_ids(self) -> tuple[int, ...]:
        bare = self._with_specials.encode("a", add_special_tokens=False).ids
        framed = self._with_specials.encode("a", add_special_tokens=True).ids
        for start in range(len(framed) - len(bare) + 1):
            if framed[start : start + len(bare)] == bare:
                return tuple(framed[:start])
        return ()

    def _token_bytes(self, document: dict[str, Any], added: dict[int, Any]) -> dict[int, bytes]:
        parts = set(_types(document.get("decoder"))) | set(
            _types(document.get("pre_tokenizer"))
        )
        if "ByteLevel" in parts:
            alphabet = _byte_alphabet()
            table = {
                token: _from_alphabet(text, alphabet)
                for text, token in self._vocabulary.items()
            }
        elif parts & {"Metaspace", "ByteFallback"}:
            table = {token: _from_pieces(text) for text, token in self._vocabulary.items()}
        else:
            raise Unimplemented(
                "the tokenizer is neither byte-level nor SentencePiece-like, so its tokens have no exact bytes; "
                "use a model with a byte-level BPE or a SentencePiece tokenizer",
                reason="TOKENIZER_UNSUPPORTED",
            )
        for token, entry in added.items():
            table[token] = b"" if entry.special else str(entry.content).encode()
        return table


def _load_library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise FailedPrecondition(
            "the cloud tier needs the tokenizers library: pip install 'farthing[cloud]'",
            reason="EXTRA_MISSING",
            metadata={"extra": "cloud"},
        ) from None
    return tokenizers


def _types(part: object) -> Iterable[str]:
    if isinstance(part, dict):
        yield str(part.get("type", ""))
        for value in part.values():
            yield from _types(value)
    elif isinstance(part, list):
        for value in part:
            yield from _types(value)


def _byte_alphabet() -> dict[str, int]:
    """Character -> byte of byte-level BPE: printable Latin-1 stands for itself, the rest from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(code): code for code in printable}
    rest = [code for code in range(256) if code not in set(printable)]
    table.update({chr(0x100 + place): code for place, code in enumerate(rest)})
    return table


def _from_alphabet(text: str, alphabet: dict[str, int]) -> bytes:
    if all(character in alphabet for character in text):
        return bytes(alphabet[character] for character in text)
    return text.encode()


def _from_pieces(text: str) -> bytes:
    if match := _BYTE_TOKEN.fullmatch(text):
        return bytes([int(match[1], 16)])
    return text.replace("▁", " ").encode()
