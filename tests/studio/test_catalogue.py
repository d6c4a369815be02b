"""The list of stories: each as its page shows it."""

from pathlib import Path

from shotstream.studio.catalogue import list_stories
from shotstream.studio.schemas.state import Place
from tests.studio.stage import Stage


def test_a_line_of_the_list_is_of_the_film_as_it_is_now(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.control("edit_shot", shot_id=stage.story.shots[1].shot_id, num_chunks=1)
    stage.run()
    stage.control("retake", shot_id=stage.story.shots[1].shot_id, num_chunks=3)
    stage.run()
    [line] = list_stories(stage.store)
    assert (line.story_id, line.title) == (stage.story_id, "A fox")
    assert (line.num_shots, line.num_frames) == (3, 21 + 33 + 21)
    assert line.cover == Place(take_id=stage.film()[0] or "", frame_index=10)
    sizes = [take.num_bytes for take in stage.open_story.history.takes.values()]
    assert len(sizes) == 4 and line.num_bytes == sum(sizes), "takes that are not chosen take room as well"
    empty = stage.create_story(2)
    other, again = list_stories(stage.store)
    assert (other.story_id, other.num_shots, other.num_frames, other.num_bytes) == (empty, 2, 0, 0)
    assert other.cover is None and again == line
    # The branch that is shown, and its first take.
    stage.control("branch", name="Other")
    stage.control("remove_shot", shot_id=stage.story.shots[0].shot_id)
    first, second = list_stories(stage.store)
    assert (first.story_id, first.num_shots, first.num_frames) == (stage.story_id, 2, 33 + 21)
    assert first.cover == Place(take_id=stage.film()[0] or "", frame_index=16) and second == other
    assert first.created_at == line.created_at and first.updated_at >= line.updated_at
    stage.close()
