"""Texts to route, from a .jsonl or .txt file or a folder, and their tokens."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class EncodedTexts:
    """Texts as token ids.

    Attributes:
        ids: token ids per text; a text may be empty.
        texts_hash: identifies the texts (not their tokens).
        tokenizer_hash: identifies the tokenizer.
    """

    ids: list[list[int]]
    texts_hash: str
    tokenizer_hash: str | None

    @property
    def token_count(self) -> int:
        return sum(map(len, self.ids))


def read_texts(source: Path, field: str = "text") -> list[str]:
    """Read texts.

    Args:
        source: a `.jsonl` file (one JSON string, or object with `field`, per line), a text file
            (one text per non-blank line), or a folder (one text per `.txt` file, by name).
        field: the key of the text in each JSON object.

    Raises:
        ValueError: nothing there, or a line that holds no text; names file and line.
    """
    if source.is_dir():
        texts = [read_utf8(p) for p in sorted(source.glob("*.txt"))]
        if not texts:
            raise ValueError(f"{source}: no .txt file in this folder")
        return texts
    if not source.is_file():
        raise ValueError(f"{source}: no such file or folder")
    # Not splitlines(): it also breaks at U+2028 and form feeds, which JSON strings may hold.
    lines = read_utf8(source).split("\n")
    numbered = [(i, line) for i, line in enumerate(lines, start=1) if line.strip()]
    if source.suffix != ".jsonl":
        texts = [line for _, line in numbered]
    else:
        texts = [_text_of_json(line, field, f"{source}:{i}") for i, line in numbered]
    if not texts:
        raise ValueError(f"{source}: no texts in it")
    return texts


def read_utf8(path: Path) -> str:
    """The text of a file; raises `ValueError` that names file and line if it is not UTF-8."""
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}:{line}: byte 0x{content[error.start]:02x} is not UTF-8. Convert the file "
            "(iconv -t UTF-8), or drop the line"
        ) from None


def _text_of_json(line: str, field: str, where: str) -> str:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON: {error}") from None
    if isinstance(value, dict):
        value = value.get(field)
    if not isinstance(value, str):
        raise ValueError(f"{where}: no string under {field!r} (choose with --text-field)")
    return value


def encode_texts(tokenizer, texts: list[str], max_tokens: int | None) -> EncodedTexts:
    """Tokenise as the model would be given the texts, special tokens included.

    Args:
        tokenizer: a transformers tokenizer.
        texts: the texts.
        max_tokens: keep at most this many tokens of each text.
    """
    ids = [list(tokenizer(text, verbose=False)["input_ids"])[:max_tokens] for text in texts]
    return EncodedTexts(ids, hash_texts(texts), hash_tokenizer(tokenizer))


def hash_texts(texts: list[str]) -> str:
    """SHA-256 of the texts as a JSON list."""
    return _sha256(json.dumps(texts, ensure_ascii=False))


def hash_tokenizer(tokenizer) -> str | None:
    """SHA-256 of the tokenizer's rules, or of its vocabulary when it states no rules."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return _sha256(backend.to_str())
    vocabulary = getattr(tokenizer, "get_vocab", dict)()
    return _sha256(json.dumps(sorted(vocabulary.items()))) if vocabulary else None


def _sha256(content: str) -> str:
    return "sha256:" + hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


def batches_of(ids: list[list[int]], batch_tokens: int, one_by_one: bool) -> list[list[int]]:
    """Text numbers grouped into right-padded batches of at most `batch_tokens` rows.

    Texts of similar length go together, so little is padding. A text is never split. Capacity
    routers see one text at a time: there, what is in the batch decides which tokens are served.
    """
    order = sorted((i for i, tokens in enumerate(ids) if tokens), key=lambda i: len(ids[i]))
    batches: list[list[int]] = []
    for i in order:  # rising length: text i sets the padded length of the batch
        fits = batches and (len(batches[-1]) + 1) * len(ids[i]) <= batch_tokens
        if fits and not one_by_one:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches
