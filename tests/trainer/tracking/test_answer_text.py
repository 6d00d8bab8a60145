"""Answers of a model as people read them."""

from skyrl_train.tracking.answer_text import answer_text


def test_a_long_answer_is_cut_and_the_rest_counted():
    assert answer_text("x" * 1500, 4) == "xxxx … (1,496 more characters)"
    assert answer_text("xxxx", 4) == "xxxx"


def test_hidden_characters_are_escaped_and_lines_kept():
    assert answer_text("a\n\x1b[2Jb", 400) == "a\n\\x1b[2Jb"
