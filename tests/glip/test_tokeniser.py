"""Captions to ids, and characters to tokens."""

import pytest

from common.errors import UserError
from glip.config import BUILT_IN, VARIANTS
from glip.tokeniser import Tokeniser
from tests.given import given_folder

TOKENISER = Tokeniser(BUILT_IN, 12)


def test_known_words_are_tokens_and_others_are_spelled():
    tokens = TOKENISER.encode("A red Circle, zoo").tokens
    assert tokens == ["[CLS]", "a", "red", "circle", ",", "z", "##o", "##o", "[SEP]"]


def test_the_built_in_vocabulary_is_as_large_as_the_variant_says():
    assert TOKENISER.size == VARIANTS["shapes"].text.words


def test_long_captions_are_cut_and_short_ones_padded():
    tokens = TOKENISER.tokens(["red " * 40, "red"])
    assert tokens.ids.shape == (2, 12)
    assert tokens.ids[0, -1] == TOKENISER.end
    assert tokens.mask.sum(dim=1).tolist() == [12, 3]
    assert (tokens.ids[1, 3:] == TOKENISER.padding).all()


def test_phrases_have_all_tokens_from_their_first_character_to_their_last():
    text = "a zoo in red "
    assert TOKENISER.positions(text, [[(2, 5)], [(0, 1), (9, 12)], [(8, 13)], [(12, 13)]]) == [
        [2, 3, 4],
        [1, 6],
        [6],  # blanks at its ends have no token
        [],
    ]


def test_a_missing_vocabulary_is_asked_for_and_nothing_is_downloaded(tmp_path):
    with pytest.raises(UserError, match=r"--text\.vocabulary"):
        Tokeniser(str(tmp_path / "nowhere"), 256)


def test_a_file_that_is_no_vocabulary_is_refused(tmp_path):
    (tmp_path / "vocab.txt").write_text("one\ntwo\n")
    with pytest.raises(UserError, match=r"\[PAD\]"):
        Tokeniser(str(tmp_path), 256)


def test_a_vocabulary_is_a_file_or_the_folder_it_lies_in(tmp_path):
    source = given_folder("MASKWORKS_DATA", ".") / "bert-base-uncased-vocab.txt"
    (tmp_path / "vocab.txt").write_bytes(source.read_bytes())
    by_file, by_folder = Tokeniser(str(source), 256), Tokeniser(str(tmp_path), 256)
    assert by_file.encode("hair drier").ids == by_folder.encode("hair drier").ids == [101, 2606, 2852, 3771, 102]
