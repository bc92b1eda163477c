"""BERT's WordPiece tokeniser, and where its vocabulary comes from; nothing is downloaded unless the user names it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from common.errors import UserError, needing
from common.files import read_text
from glip.config import BERT, BUILT_IN
from glip.text_encoder import Tokens
from glip.vocabulary import BUILT_IN_TOKENS, SPECIAL

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

SHIPPED = Path(__file__).with_name(BERT)
EARLIER = "datasets/bert-base-uncased/vocab.txt"  # what checkpoints name that were made before it was shipped
HUB_PREFIX = "hub:"  # --text.vocabulary hub:bert-base-uncased downloads; nothing else does
FIRST_TRIES, LAST_TRIES = (0, 1, 2), (0, -1, -2)  # a phrase may begin or end with blanks, which no token covers


class Tokeniser:
    """Captions -> ids, and characters -> tokens."""

    def __init__(self, vocabulary: str, max_tokens: int):
        self.max_tokens = max_tokens
        self.tokenizer = open_vocabulary(vocabulary)
        self.padding, self.unknown, self.start, self.end, self.hidden = (
            self._special(name, vocabulary) for name in SPECIAL
        )

    def _special(self, name: str, source: str) -> int:
        found: int | None = self.tokenizer.token_to_id(name)
        if found is None:
            raise lacks(source, name)
        return found

    def encode(self, caption: str) -> "Encoding":
        """[CLS] .. [SEP], as long as it takes; has ids and char_to_token(character)."""
        return self.tokenizer.encode(caption)

    def length(self, caption: str) -> int:
        return len(self.encode(caption).ids)

    def tokens(self, captions: Sequence[str], length: int = 0) -> Tokens:
        """Captions cut at the longest length there is and padded to `length`, or to the longest among them."""
        whole = [self.encode(caption).ids for caption in captions]
        most = self.max_tokens
        rows = [ids if len(ids) <= most else [*ids[: most - 1], self.end] for ids in whole]
        length = length or max(len(row) for row in rows)
        ids = torch.tensor([row + [self.padding] * (length - len(row)) for row in rows])
        lengths = torch.tensor([len(row) for row in rows])
        return Tokens(ids, torch.arange(length) < lengths[:, None])

    def positions(self, caption: str, spans: Sequence[Sequence[tuple[int, int]]]) -> list[list[int]]:
        """For each phrase, given as the characters [start, end) of its parts, the places of its tokens."""
        encoding = self.encode(caption)
        return [sorted({place for part in phrase for place in places_of(encoding, *part)}) for phrase in spans]


def places_of(encoding: "Encoding", start: int, end: int) -> range:
    """From the token of the first character to that of the last; none where only blanks would be left."""
    firsts = (encoding.char_to_token(start + step) for step in FIRST_TRIES)
    lasts = (encoding.char_to_token(end - 1 + step) for step in LAST_TRIES if end - 1 + step >= 0)
    first, last = next((f for f in firsts if f is not None), None), next((k for k in lasts if k is not None), None)
    return range(0) if first is None or last is None else range(first, last + 1)


def open_vocabulary(source: str) -> "Tokenizer":
    """One of the two that come with the package, a file or folder, or one from the hub."""
    with needing("GLIP", "transformers tokenizers"):
        from tokenizers import Tokenizer
    if source == BUILT_IN:
        return word_pieces({token: number for number, token in enumerate(BUILT_IN_TOKENS)}, source)
    if source.startswith(HUB_PREFIX):
        name = source.removeprefix(HUB_PREFIX)
        try:
            return Tokenizer.from_pretrained(name)
        except Exception as error:  # the hub's client raises many kinds
            raise UserError(f"{source}: the hub does not give it ({str(error).splitlines()[0]})") from error
    path = SHIPPED if source == BERT or (source == EARLIER and not Path(source).exists()) else Path(source)
    files = [path / name for name in ("vocab.txt", "tokenizer.json")] if path.is_dir() else [path]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise UserError(
            f"{source}: no vocabulary there; name with --text.vocabulary a WordPiece vocabulary, a folder with its "
            f"vocab.txt, or {BERT}, which comes with the package"
        )
    return read_vocabulary(found)


def read_vocabulary(path: Path) -> "Tokenizer":
    from tokenizers import Tokenizer

    try:
        if path.suffix == ".json":
            tokenizer = Tokenizer.from_file(str(path))
            tokenizer.no_truncation()  # a file may ask for cutting and padding: both are done here
            tokenizer.no_padding()
            return tokenizer
        lines = read_text(path).splitlines()
    except Exception as error:  # the tokenizers library raises plain exceptions
        raise UserError(f"{path}: not read as a vocabulary ({error}); expected BERT's vocab.txt") from error
    return word_pieces({token: number for number, token in enumerate(lines)}, str(path))


def word_pieces(vocabulary: dict[str, int], source: str) -> "Tokenizer":
    """BERT's tokeniser for lower case, on a vocabulary."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    missing = [name for name in SPECIAL if name not in vocabulary]
    if missing:
        raise lacks(source, missing[0])
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=SPECIAL[1]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    ends = [(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return tokenizer


def lacks(source: str, token: str) -> UserError:
    return UserError(f"{source}: {token} is not in it; expected the vocabulary of an uncased BERT")
