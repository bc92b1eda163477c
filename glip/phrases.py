"""Noun phrases of a caption: with nltk's tagger where it is installed, otherwise by rules of our own."""

import importlib
import re
from collections.abc import Callable, Sequence

Tag = tuple[str, str]  # a word and its Penn Treebank tag
Tagger = Callable[[str], list[Tag]]

NOUN_PHRASE = re.compile(r"(?:<DT>)?(?:<JJ[^>]*>)*(?:<NN[^>]*>)+")
PUNCTUATION = "|:;@()[]{}^'\"\N{RIGHT SINGLE QUOTATION MARK}`?$%#!&*+,."
WORD = re.compile(r"'s\b|[^\W_]+(?:[-/][^\W_]+)*|[^\w\s]")

# the tag of each line's words; a line may go on in one that begins with the same tag
LEXICON = """
DT a an the this that these those each every another some any no
IN about above across after against along among around as at before behind below beneath beside besides between beyond
IN by down during for from if in inside into like near of off on onto out outside over past since than through to toward
IN towards under underneath until up upon via while with within without
CC and or but nor yet plus
CD one two three four five six seven eight nine ten dozen hundred
PRP i you he she it we they me him us them who whom which what whose there his her its their our my your itself
PRP himself herself themselves
VB am is are was were be been being has have had do does did can could will would shall should may might must sit sits
VB sat stand stands stood lie lies lay hold holds held wear wears wore ride rides rode run runs ran eat eats ate drive
VB drives fly flies flew hang hangs hung throw throws threw walk walks make makes take takes get gets go goes seen made
VB taken placed parked covered filled surrounded
RB very not also just only together away back here now then too next nearby
JJ red orange yellow green blue purple pink brown black white gray grey dark light bright small large big little tall
JJ short long young old new wooden metal round hot cold empty full open closed wet dry dirty clean beautiful several
JJ many few other same different
POS 's
"""
TAGS = {word: tag for line in LEXICON.strip().splitlines() for tag, *words in [line.split()] for word in words}
# nouns that end like verbs
LIKE_VERBS = """
something anything nothing everything building ceiling king ring wing string swing painting clothing railing awning
sibling evening morning wedding earring bedding
"""
NOUNS = frozenset(LIKE_VERBS.split())


def find_noun_phrases(caption: str, tagger: Tagger | None = None) -> list[str]:
    """What a caption names, in its order: "a dog chases the red ball" -> ["a dog", "the red ball"]."""
    tags = (tagger or best_tagger())(caption.lower())
    return noun_phrases(tags)


def noun_phrases(tags: Sequence[Tag]) -> list[str]:
    """A determiner or none, adjectives, and at least one noun."""
    pieces = [f"<{tag}>" for _, tag in tags]
    starts = {sum(map(len, pieces[:index])): index for index in range(len(pieces) + 1)}
    found = []
    for match in NOUN_PHRASE.finditer("".join(pieces)):
        words = [word for word, _ in tags[starts[match.start()] : starts[match.end()]]]
        found.append(without_punctuation(" ".join(words)))
    return [phrase for phrase in found if phrase]


def without_punctuation(phrase: str) -> str:
    return phrase.translate(str.maketrans("", "", PUNCTUATION)).strip()


def best_tagger() -> Tagger:
    """nltk's averaged perceptron, as the original uses, if it and its data are installed; else our rules."""
    try:
        nltk = importlib.import_module("nltk")
        nltk.pos_tag(["probe"])
    except (ImportError, LookupError):
        return tag_by_rules

    def tag(caption: str) -> list[Tag]:
        words = nltk.tokenize.NLTKWordTokenizer().tokenize(caption)  # a caption is one sentence
        return [(word, label) for word, label in nltk.pos_tag(words)]

    return tag


def tag_by_rules(caption: str) -> list[Tag]:
    """Closed classes from lists; of the other words, verbs are told from nouns by ending and neighbours."""
    words = WORD.findall(caption)
    tags = [listed_tag(word) for word in words]
    for index, word in enumerate(words):
        before = tags[index - 1] if index else "START"
        after = tags[index + 1] if index + 1 < len(tags) else "END"
        if tags[index] == "":
            tags[index] = "VBZ" if looks_like_verb(word, before, after) else "NN"
        elif (
            tags[index] == "VB"
            and not word.endswith("s")
            and before.startswith(("NN", "JJ"))
            and after in ("END", "PUNCT")
        ):
            tags[index] = "NN"  # the hot dog stand.
    return list(zip(words, tags, strict=True))


def listed_tag(word: str) -> str:
    """The tag of a word of a closed class, of punctuation and numbers; empty for the others."""
    if word in TAGS:
        return TAGS[word]
    if word[0].isalpha():
        return "RB" if word.endswith("ly") else ""
    return "CD" if word.isdigit() else "PUNCT"


def looks_like_verb(word: str, before: str, after: str) -> bool:
    """After a noun or "is": playing, chases (the ball), covered (with snow)."""
    if word in NOUNS or before.startswith(("DT", "JJ", "POS", "CD", "START", "IN")):
        return False
    if word.endswith("ing") and before.startswith(("NN", "VB", "RB", "CC")) and after != "END":
        return True
    is_finite = word.endswith("s") and not word.endswith("ss") and after.startswith(("DT", "CD", "PRP", "RB", "PUNCT"))
    is_participle = word.endswith("ed") and after.startswith(("DT", "IN", "CD", "PRP", "RB"))
    return before.startswith(("NN", "RB")) and (is_finite or is_participle)
