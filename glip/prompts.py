"""What to look for, in words: lists of class names, captions, explicit spans -> captions and the phrases in them."""

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.data.coco_classes import COCO_CLASSES
from common.errors import UserError
from glip.config import Text
from glip.phrases import find_noun_phrases
from glip.tokeniser import Tokeniser

Span = tuple[int, int]  # the characters [start, end) of a caption
COCO_PROMPT = "coco"


@dataclass(frozen=True)
class Caption:
    """One text for the network, and which of its characters name what."""

    text: str
    phrases: tuple[tuple[Span, ...], ...]  # each in one or more parts
    labels: tuple[int, ...]  # for each phrase its place in the prompt's names


@dataclass(frozen=True)
class Prompt:
    """Names to look for, in one caption or, where they are too many, several."""

    names: tuple[str, ...]
    captions: tuple[Caption, ...]

    def span(self, label: int) -> tuple[str, tuple[Span, ...]]:
        """The caption that holds a name, and where."""
        for caption in self.captions:
            if label in caption.labels:
                return caption.text, caption.phrases[caption.labels.index(label)]
        return "", ()


@dataclass(frozen=True)
class Wording:
    """How a class is put into words: only `name` is what its boxes are aligned with."""

    name: str
    prefix: str = ""
    suffix: str = ""


@dataclass
class Chunk:
    """A caption in the making."""

    text: str = ""
    phrases: list[tuple[Span, ...]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)

    def extended(self, label: int | None, wording: Wording, separator: str) -> "Chunk":
        """With one more name; a name without a label is read, but not looked for."""
        start = f"{self.text}{separator if self.text or self.phrases else ''}{wording.prefix}"
        text = f"{start}{wording.name}{wording.suffix}"
        if label is None:
            return Chunk(text, self.phrases, self.labels)
        span = (len(start), len(start) + len(wording.name))
        return Chunk(text, [*self.phrases, (span,)], [*self.labels, label])

    def caption(self) -> Caption:
        return Caption(self.text, tuple(self.phrases), tuple(self.labels))


def clean(name: str) -> str:
    """mouse_(computer_equipment) -> "mouse ": as the original reads names, trailing blank and all."""
    return re.sub(r"\(.*\)", "", name).replace("_", " ").replace("  ", " ")


def class_prompt(
    names: Sequence[str],
    tokeniser: Tokeniser,
    settings: Text,
    wordings: Sequence[Wording] = (),
    others: Sequence[str] = (),
) -> Prompt:
    """A list of class names, split into as many captions as the length of the text asks for.

    `wordings` puts them into other words; `others` are read after them but not looked for.
    """
    if not names:
        raise UserError("the prompt is empty; name at least one class")
    worded = list(wordings) or [Wording(clean(name)) for name in names]
    if len(worded) != len(names):
        raise UserError(f"{len(worded)} wordings for {len(names)} classes; give one for each")

    def fits(text: str) -> bool:
        return tokeniser.length(text) <= settings.max_tokens

    chunks = split(worded, settings.separator, settings.chunk, fits)
    if len(chunks) > 1 and not settings.chunk:
        warnings.warn(
            f"{len(names)} class names take {len(chunks)} captions of {settings.max_tokens} tokens; scores depend on "
            "what else a caption says, so they are not quite those of one caption",
            stacklevel=2,
        )
    for other in others:
        chunks = [chunk.extended(None, Wording(clean(other)), settings.separator) for chunk in chunks]
    return Prompt(tuple(names), tuple(chunk.caption() for chunk in chunks))


def split(worded: Sequence[Wording], separator: str, size: int, fits: Callable[[str], bool]) -> list[Chunk]:
    """Consecutive names, `size` for each caption, or as many as fit."""
    chunks = [Chunk()]
    for label, wording in enumerate(worded):
        longer = chunks[-1].extended(label, wording, separator)
        if chunks[-1].labels and (len(longer.labels) > size if size else not fits(longer.text)):
            chunks.append(Chunk())
            longer = chunks[-1].extended(label, wording, separator)
        chunks[-1] = longer
    return chunks


def caption_prompt(caption: str, tokeniser: Tokeniser, phrases: Sequence[str] | Sequence[Span] = ()) -> Prompt:
    """A free caption; what to look for in it are these phrases or spans, or else its noun phrases."""
    spans = [span for phrase in phrases or find_noun_phrases(caption) for span in occurrences(caption, phrase)]
    if not spans:
        raise UserError(f"{caption!r}: no phrase to look for in it; name class names, or mark what you mean with spans")
    for start, end in spans:
        if not 0 <= start < end <= len(caption):
            raise UserError(f"span {start}:{end} is not in the caption, which has {len(caption)} characters")
    if tokeniser.length(caption) > tokeniser.max_tokens:
        raise UserError(
            f"the caption has {tokeniser.length(caption)} tokens, {tokeniser.max_tokens} are the most; shorten it"
        )
    names = tuple(caption[start:end] for start, end in spans)
    return Prompt(names, (Caption(caption, tuple((span,) for span in spans), tuple(range(len(spans)))),))


def occurrences(caption: str, phrase: str | Span) -> list[Span]:
    """Everywhere a phrase stands in a caption, inside of other words too, as in the original's demo."""
    if not isinstance(phrase, str):
        return [phrase]
    return [match.span() for match in re.finditer(re.escape(phrase.lower()), caption.lower())]


def read_prompt(text: str, tokeniser: Tokeniser, settings: Text, spans: Sequence[str] = ()) -> Prompt:
    """What a user typed: "coco", a file of class names, "person. red cup. dog", or a caption in one sentence."""
    if spans:
        return caption_prompt(text, tokeniser, [read_span(span) for span in spans])
    names = prompted_names(text)
    return class_prompt(names, tokeniser, settings) if names else caption_prompt(text, tokeniser)


def prompted_names(text: str) -> tuple[str, ...]:
    """The class names that a typed prompt lists; none where it is a caption."""
    if text.strip().lower() == COCO_PROMPT:
        return COCO_CLASSES
    if text.endswith(".txt"):
        try:
            lines = Path(text).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise UserError(f"{text}: {error.strerror}; expected a file with a class name on each line") from error
        return tuple(line.strip() for line in lines if line.strip())
    parts = [part.strip() for part in re.split(r"\.(?:\s+|$)", text) if part.strip()]
    return tuple(parts) if len(parts) > 1 else ()


def read_span(text: str) -> Span:
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if not match:
        raise UserError(
            f"span {text!r}: expected START:END, the characters of a phrase, like 0:5; photographs stand before --spans"
        )
    return int(match[1]), int(match[2])
