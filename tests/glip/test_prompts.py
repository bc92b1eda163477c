"""What prompts become: captions, spans, tokens."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UserError
from glip.config import BUILT_IN, Text
from glip.phrases import find_noun_phrases, tag_by_rules
from glip.prompts import Wording, caption_prompt, class_prompt, clean, read_prompt
from glip.tokeniser import Tokeniser
from maskworks.published.coco_classes import COCO_CLASSES

SETTINGS = Text(vocabulary=BUILT_IN)
TOKENISER = Tokeniser(BUILT_IN, 256)
words = st.text("abcdefghij", min_size=1, max_size=6)


def test_class_names_are_joined_and_their_characters_known():
    caption = class_prompt(["hot_dog", "mouse_(computer)", "red circle"], TOKENISER, SETTINGS).captions[0]
    assert caption.text == "hot dog. mouse . red circle"
    assert [caption.text[start:end] for ((start, end),) in caption.phrases] == ["hot dog", "mouse ", "red circle"]


@given(st.lists(words, min_size=1, max_size=30), st.integers(1, 5))
def test_chunks_hold_all_names_in_order_and_no_more_than_so_many(names, size):
    prompt = class_prompt(names, TOKENISER, replace(SETTINGS, chunk=size))
    assert [label for caption in prompt.captions for label in caption.labels] == list(range(len(names)))
    assert all(len(caption.labels) <= size for caption in prompt.captions)
    for caption in prompt.captions:
        found = [caption.text[start:end] for ((start, end),) in caption.phrases]
        assert found == [names[label] for label in caption.labels]


def test_too_many_names_are_split_so_that_every_caption_fits_and_the_user_is_told():
    with pytest.warns(UserWarning, match="captions"):
        prompt = class_prompt(COCO_CLASSES, TOKENISER, SETTINGS)  # spelled in letters, as the words are not known
    assert len(prompt.captions) > 1
    assert all(TOKENISER.length(caption.text) <= 256 for caption in prompt.captions)
    assert [label for caption in prompt.captions for label in caption.labels] == list(range(80))


def test_wordings_are_read_whole_but_only_the_name_is_looked_for():
    wordings = [Wording("holes", "there are some ", " on the road"), Wording("cat")]
    caption = class_prompt(["pothole", "cat"], TOKENISER, SETTINGS, wordings, others=["dog"]).captions[0]
    assert caption.text == "there are some holes on the road. cat. dog"
    assert [caption.text[start:end] for ((start, end),) in caption.phrases] == ["holes", "cat"]


@given(words, words)
def test_cleaning_leaves_plain_names_alone(first, second):
    assert clean(f"{first} {second}") == f"{first} {second}" == clean(f"{first}_{second}")


def test_a_list_with_full_stops_is_a_list_and_a_sentence_is_a_caption():
    assert read_prompt("person. red cup. a man in a red shirt.", TOKENISER, SETTINGS).names == (
        "person",
        "red cup",
        "a man in a red shirt",
    )
    assert read_prompt("two dogs are playing with a red ball", TOKENISER, SETTINGS).names == ("dogs", "a red ball")


def test_coco_and_files_are_prompts(tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("red circle\n\nblue star\n")
    assert read_prompt(str(file), TOKENISER, SETTINGS).names == ("red circle", "blue star")
    with pytest.warns(UserWarning):
        assert read_prompt("coco", TOKENISER, SETTINGS).names == COCO_CLASSES


def test_spans_say_what_to_look_for():
    prompt = read_prompt("a dog beside a red ball", TOKENISER, SETTINGS, ["2:5", "15:23"])
    assert prompt.names == ("dog", "red ball")
    assert prompt.span(1) == ("a dog beside a red ball", ((15, 23),))


def test_a_phrase_that_stands_twice_is_looked_for_twice():
    prompt = caption_prompt("an ice cream cone and ice", TOKENISER, ["ice"])
    assert prompt.captions[0].phrases == (((3, 6),), ((22, 25),))


@pytest.mark.parametrize(
    ("text", "spans", "complaint"),
    [
        ("a dog", ["0:99"], "5 characters"),
        ("a dog", ["dog"], "START:END"),
        ("is there", [], "no phrase"),
        ("missing.txt", [], "class name on each line"),
        ("zebra " * 100, ["0:5"], "shorten"),
    ],
)
def test_prompts_that_cannot_be_meant_are_refused(text, spans, complaint):
    with pytest.raises(UserError, match=complaint):
        read_prompt(text, TOKENISER, SETTINGS, spans)


@pytest.mark.parametrize(
    ("caption", "phrases"),
    [
        ("bobble heads on top of the shelf", ["bobble heads", "top", "the shelf"]),
        ("There is a cat and something in the picture.", ["a cat", "something", "the picture"]),
        ("a man's hat, a hair drier, and the hot dog stand", ["a man", "hat", "a hair drier", "the hot dog stand"]),
        ("people riding horses along a dirt road", ["people", "horses", "a dirt road"]),
        ("the dog chases another dog", ["the dog", "another dog"]),
        ("A woman in a blue T-shirt holds (or throws) a frisbee!", ["a woman", "a blue t-shirt", "a frisbee"]),
    ],
)
def test_rules_find_the_noun_phrases_that_the_tagger_finds(caption, phrases):
    assert find_noun_phrases(caption, tag_by_rules) == phrases
