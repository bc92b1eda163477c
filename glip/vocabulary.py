"""The words of the built-in captions, and letters to spell others with: the vocabulary of the shapes variant."""

import string

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PUNCTUATION = (".", ",", "'", "-", "/", "(", ")", "!", "?", ":", ";")
NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "no")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white")
THINGS = ("circle", "square", "triangle", "star", "ring", "cross", "heart", "shape", "object")
PLURALS = ("circles", "squares", "triangles", "stars", "rings", "crosses", "hearts", "shapes", "objects")
PEOPLE = ("person", "people", "man", "woman", "shirt")
STUFF = ("sky", "mountain", "grass", "sand", "water")
OTHERS = ("a", "an", "the", "and", "of", "in", "on", "left", "right", "above", "below", "front", "inside", "bigger")
MORE = ("than", "standing", "with", "to", "next", "one", "small", "large", "big")

LETTERS = string.ascii_lowercase + string.digits
WORDS = (*NUMBERS, *COLOURS, *THINGS, *PLURALS, *PEOPLE, *STUFF, *OTHERS, *MORE)
BUILT_IN_TOKENS = (
    *SPECIAL,
    *PUNCTUATION,
    *WORDS,
    *(letter for letter in LETTERS if letter not in WORDS),
    *(f"##{letter}" for letter in LETTERS),
)
