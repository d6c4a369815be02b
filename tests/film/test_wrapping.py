import pytest

from shotstream.film.wrapping import clusters, num_columns, one_line, shorten, wrap_text


@pytest.mark.parametrize(
    ("text", "width"),
    [("fox", 3), ("狐", 2), ("e\u0301", 1), ("한글", 4), ("ｆ", 2), ("", 0), ("ﾊﾟ", 2), ("مرحبا", 5)],
)
def test_columns_count_as_a_terminal_counts_them(text: str, width: int) -> None:
    assert num_columns(text) == width


def test_characters_are_never_cut_in_two() -> None:
    text = "e\u0301👩🏽\u200d🚀🇫🇷🇩🇪❤\ufe0fक्षa"
    assert list(clusters(text)) == ["e\u0301", "👩🏽\u200d🚀", "🇫🇷", "🇩🇪", "❤\ufe0f", "क्", "ष", "a"]
    assert wrap_text("👩🏽\u200d🚀" * 3, num_columns, 4, 9) == ["👩🏽\u200d🚀"] * 3


def test_chinese_breaks_between_characters_but_not_before_a_closing_mark() -> None:
    assert wrap_text("狐が森を歩く。月", num_columns, 12, 9) == ["狐が森を歩", "く。月"]
    assert wrap_text("The fox 狐が森", num_columns, 12, 9) == ["The fox 狐が", "森"]


def test_words_keep_their_spaces_and_too_long_ones_are_split() -> None:
    assert wrap_text("a bb  ccc\ndddddddddd", num_columns, 6, 9) == ["a bb", "ccc", "dddddd", "dddd"]
    assert wrap_text("one two three four", num_columns, 9, 2) == ["one two", "three…"]
    assert wrap_text("one, two, three", num_columns, 9, 1) == ["one, two…"]
    assert wrap_text("", num_columns, 9, 2) == []


def test_what_no_file_may_hold_is_left_out() -> None:
    assert one_line(" a\x00\x07\tb\r\n\n c\x85d\ufffe\ud800 ") == "a b c d"
    assert one_line("👩🏽\u200d🚀 e\u0301 \u202bمرحبا") == "👩🏽\u200d🚀 e\u0301 \u202bمرحبا"


def test_shortened_text_ends_in_an_ellipsis_and_keeps_whole_characters() -> None:
    assert shorten("a fox", 5) == "a fox"
    assert shorten("a foxe\u0301", 6) == "a fox…"
    assert shorten("a fox walks", 6) == "a fox…"
    assert shorten("a  foxes", 4) == "a…"
