"""Captions to ids, and characters to tokens."""

import hashlib

import pytest

from common.errors import UserError
from glip.config import BERT, BUILT_IN, VARIANTS
from glip.tokeniser import SHIPPED, Tokeniser

TOKENISER = Tokeniser(BUILT_IN, 12)


def test_known_words_are_tokens_and_others_are_spelled():
    tokens = TOKENISER.encode("A red Circle, zoo").tokens
    assert tokens == ["[CLS]", "a", "red", "circle", ",", "z", "##o", "##o", "[SEP]"]


def test_the_built_in_vocabulary_is_as_large_as_the_variant_says():
    assert TOKENISER.tokenizer.get_vocab_size() == VARIANTS["shapes"].text.words


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
    words = tmp_path / "vocab.txt"
    words.write_text("\n".join(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hair")))
    by_file, by_folder = Tokeniser(str(words), 256), Tokeniser(str(tmp_path), 256)
    assert by_file.encode("hair").ids == by_folder.encode("hair").ids == [2, 5, 3]


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "shapes"])
def test_published_variants_read_berts_vocabulary_which_comes_with_the_package(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for variable in ("MASKWORKS_DATA", "MASKWORKS_PARITY", "HOME", "HF_HOME"):
        monkeypatch.delenv(variable, raising=False)
    text = VARIANTS[name].text
    tokeniser = Tokeniser(text.vocabulary, text.max_tokens)
    assert tokeniser.encode("Hair drier.").ids == [101, 2606, 2852, 3771, 1012, 102]
    assert tokeniser.tokenizer.get_vocab_size() == text.words


def test_a_checkpoint_made_before_it_was_shipped_reads_the_shipped_one_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    earlier = Tokeniser("datasets/bert-base-uncased/vocab.txt", 256)
    assert earlier.encode("hair drier").ids == Tokeniser(BERT, 256).encode("hair drier").ids


def test_the_shipped_vocabulary_is_the_published_file():
    digest = hashlib.sha256((SHIPPED / "vocab.txt").read_bytes()).hexdigest()
    assert digest in (SHIPPED / "NOTICE").read_text()
    assert digest == "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
    assert "Apache License" in (SHIPPED / "LICENSE").read_text()
