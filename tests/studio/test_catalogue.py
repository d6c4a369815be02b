"""The list of stories: each as its page shows it."""

from pathlib import Path

from shotstream.studio.catalogue import list_stories
from shotstream.studio.schemas.state import Place
from tests.studio.studio_harness import StudioHarness


def test_a_line_of_the_list_is_of_the_film_as_it_is_now(tmp_path: Path) -> None:
    studio = StudioHarness(tmp_path)
    studio.send_ok("edit_shot", shot_id=studio.story.shots[1].shot_id, num_chunks=1)
    studio.run()
    studio.send_ok("retake", shot_id=studio.story.shots[1].shot_id, num_chunks=3)
    studio.run()
    [line] = list_stories(studio.store)
    assert (line.story_id, line.title) == (studio.story_id, "A fox")
    assert (line.num_shots, line.num_frames) == (3, 21 + 33 + 21)
    assert line.cover == Place(take_id=studio.take_ids()[0] or "", frame_index=10)
    sizes = [take.num_bytes for take in studio.open_story.history.takes.values()]
    assert len(sizes) == 4 and line.num_bytes == sum(sizes), "takes that are not chosen take room as well"
    empty = studio.create_story(2)
    other, again = list_stories(studio.store)
    assert (other.story_id, other.num_shots, other.num_frames, other.num_bytes) == (empty, 2, 0, 0)
    assert other.cover is None and again == line
    # The branch that is shown, and its first take.
    studio.send_ok("branch", name="Other")
    studio.send_ok("remove_shot", shot_id=studio.story.shots[0].shot_id)
    first, second = list_stories(studio.store)
    assert (first.story_id, first.num_shots, first.num_frames) == (studio.story_id, 2, 33 + 21)
    assert first.cover == Place(take_id=studio.take_ids()[0] or "", frame_index=16) and second == other
    assert first.created_at == line.created_at and first.updated_at >= line.updated_at
    studio.close()
