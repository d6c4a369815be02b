"""The vocabulary as a person reads it: complete, and its example is a story the theatre understands."""

import yaml

from shotstream.story import story_from_document
from shotstream.theatre.captions import split_words, vocabulary
from shotstream.theatre.vocabulary import describe


def test_every_word_is_shown() -> None:
    shown = set(describe().lower().replace(":", " ").replace(".", " ").replace(",", " ").split())
    assert {word for word in vocabulary() if word[0].isalpha()} <= shown


def test_lines_fit_a_terminal() -> None:
    assert max(map(len, describe().splitlines())) <= 100


def test_the_example_is_a_story_of_known_words() -> None:
    lines = describe().splitlines()
    block = [line for line in lines[lines.index("A story:") :] if line.startswith("    ")]
    story = story_from_document(yaml.safe_load("\n".join(block)))
    assert len(story.shots) == 3
    for text in (story.global_caption, *(shot.caption for shot in story.shots)):
        assert set(split_words(text)) <= set(vocabulary())
