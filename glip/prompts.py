"""What to look for, in words: lists of class names, captions, explicit spans -> captions and the phrases in them."""

import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common.errors import UserError
from common.files import read_text
from glip.config import Text
from glip.phrases import find_noun_phrases
from glip.tokeniser import Tokeniser
from maskworks.published.coco_classes import COCO_CLASSES

Span = tuple[int, int]  # the characters [start, end) of a caption
Phrase = tuple[Span, ...]  # in one or more parts
COCO_PROMPT = "coco"


@dataclass(frozen=True)
class Wording:
    """How a class is put into words: only `name` is what its boxes are aligned with."""

    name: str
    prefix: str = ""
    suffix: str = ""


@dataclass(frozen=True)
class Caption:
    """One text for the network, and which of its characters name what."""

    text: str = ""
    phrases: tuple[Phrase, ...] = ()
    labels: tuple[int, ...] = ()  # for each phrase its place in the prompt's names

    @classmethod
    def naming(cls, text: str, phrases: Iterable[Phrase]) -> "Caption":
        """A text and phrases of it, which are the prompt's names in this order."""
        phrases = tuple(phrases)
        return cls(text, phrases, tuple(range(len(phrases))))

    def extended(self, label: int | None, wording: Wording, separator: str) -> "Caption":
        """With one more name; a name without a label is read, but not looked for."""
        start = f"{self.text}{separator if self.text or self.phrases else ''}{wording.prefix}"
        text = f"{start}{wording.name}{wording.suffix}"
        if label is None:
            return replace(self, text=text)
        span = (len(start), len(start) + len(wording.name))
        return Caption(text, (*self.phrases, (span,)), (*self.labels, label))


@dataclass(frozen=True)
class Prompt:
    """Names to look for, in one caption or, where they are too many, several."""

    names: tuple[str, ...]
    captions: tuple[Caption, ...]

    def span(self, label: int) -> tuple[str, Phrase]:
        """The caption that holds a name, and where."""
        for caption in self.captions:
            if label in caption.labels:
                return caption.text, caption.phrases[caption.labels.index(label)]
        return "", ()


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

    captions = split(worded, tokeniser, settings)
    if len(captions) > 1 and not settings.chunk:
        warnings.warn(
            f"{len(names)} class names take {len(captions)} captions of {settings.max_tokens} tokens; scores depend on "
            "what else a caption says, so they are not quite those of one caption",
            stacklevel=2,
        )
    for other in others:
        captions = [caption.extended(None, Wording(clean(other)), settings.separator) for caption in captions]
    return Prompt(tuple(names), tuple(captions))


def split(worded: Sequence[Wording], tokeniser: Tokeniser, settings: Text) -> list[Caption]:
    """Consecutive names, `settings.chunk` for each caption, or as many as fit."""
    captions = [Caption()]
    for label, wording in enumerate(worded):
        longer = captions[-1].extended(label, wording, settings.separator)
        if settings.chunk:
            full = len(longer.labels) > settings.chunk
        else:
            full = tokeniser.length(longer.text) > settings.max_tokens
        if full and captions[-1].labels:
            captions.append(Caption())
            longer = captions[-1].extended(label, wording, settings.separator)
        captions[-1] = longer
    return captions


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
    return Prompt(names, (Caption.naming(caption, ((span,) for span in spans)),))


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
            lines = read_text(Path(text)).splitlines()
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
