"""References: pictures as virtual earlier shots, which captions cite."""

from pathlib import Path

import numpy as np
import pytest
import torch

from shotstream.story import Reference, StoryError, story_from_bytes
from shotstream.streaming.conditioning import condition_next_shot
from shotstream.streaming.pipeline import StreamingPipeline
from shotstream.streaming.references import EncodedReference, cite, cited, fitted_picture, is_for
from shotstream.streaming.session import ReferenceWarning, StorySession
from shotstream.video.pictures import picture_to_uri
from tests.streaming.tiny import LATENT_SIZE, tiny_config, tiny_memory, tiny_pipeline

GLOBAL = "A red fox in the forest by night."


def picture(level: int) -> np.ndarray:
    return np.full((32, 48, 3), level, np.uint8)


def reference(name: str = "scout", level: int = 90, **changes: object) -> Reference:
    values: dict[str, object] = {"caption": "the red fox", "image": picture_to_uri(picture(level)), **changes}
    return Reference(id=name, **values)  # pyright: ignore[reportArgumentType]


def encoded(name: str, fill: float, **changes: object) -> EncodedReference:
    shape = (4, LATENT_SIZE.height, LATENT_SIZE.width)
    return EncodedReference(
        reference=reference(name, caption=f"a {name}", **changes), latent=torch.full(shape, float(fill))
    )


def test_references_have_the_oldest_phases_and_their_own_captions_before_those_of_shots() -> None:
    """As made by hand: two references, then frames of shots in the places that are left."""
    references = [encoded("one", -10).memory, encoded("two", -20).memory]
    config = tiny_config(num_context_frames=5)
    conditioning, captions = condition_next_shot(
        [tiny_memory(0, budget=5), tiny_memory(1, budget=5)],
        "next",
        config,
        LATENT_SIZE,
        "theatre",
        references=references,
    )
    assert captions == ["a one", "a two", "shot 0", "shot 1", "next"]
    assert conditioning.context[0, 0, :, 0, 0].tolist() == [-10, -20, 0, 1, 1]
    assert conditioning.positions.shot_phase.tolist() == [[0, 1, 2, 3, 3]]
    assert conditioning.positions.caption_index.tolist() == [[0, 1, 2, 3, 3]]
    assert conditioning.target_phase.tolist() == [4] and conditioning.target_caption.tolist() == [4]


def test_under_the_published_policy_phases_count_references_and_then_all_shots() -> None:
    memories = [tiny_memory(shot) for shot in range(8)]
    conditioning, captions = condition_next_shot(
        memories, "next", tiny_config(), LATENT_SIZE, "published", references=[encoded("one", -10).memory]
    )
    assert captions == ["a one", "shot 6", "shot 7", "next"]
    assert conditioning.context[0, 0, :, 0, 0].tolist() == [-10, 6, 7]
    assert conditioning.positions.shot_phase.tolist() == [[0, 7, 8]]
    assert conditioning.target_phase.tolist() == [9]


def test_in_a_first_shot_references_share_all_of_the_context() -> None:
    references = [encoded("one", -10).memory, encoded("two", -20).memory]
    conditioning, captions = condition_next_shot(
        [], "first", tiny_config(), LATENT_SIZE, "theatre", references=references
    )
    assert captions == ["a one", "a two", "first"]
    assert conditioning.context[0, 0, :, 0, 0].tolist() == [-10, -20, -20]
    assert conditioning.positions.shot_phase.tolist() == [[0, 1, 1]]
    assert conditioning.target_phase.tolist() == [2] and conditioning.target_caption.tolist() == [2]


def test_references_and_pins_leave_one_place_for_shots() -> None:
    references = [encoded(str(number), number).memory for number in range(7)]
    told = "7 references for 5 places in a shot's context; give fewer, or name under 'shots'"
    with pytest.raises(ValueError, match=told):
        condition_next_shot(
            [], "x", tiny_config(num_context_frames=6), LATENT_SIZE, "theatre", references=references
        )
    with pytest.raises(ValueError, match="2 references and 1 pinned pictures for 2 places"):
        condition_next_shot(
            [tiny_memory(0, num_pins=1)],
            "x",
            tiny_config(),
            LATENT_SIZE,
            "theatre",
            references=references[:2],
        )


def test_a_caption_cites_a_reference_by_its_id() -> None:
    known = [encoded(name, 0).reference for name in ("scout", "the-inn")]
    assert cited("@scout waves at a@b.example, in @the-inn. @scout!") == ["scout", "the-inn", "scout"]
    assert cite("@scout enters @the-inn.", known) == "a scout enters a the-inn."
    assert cite("mail a@scout.example", known) == "mail a@scout.example"
    with pytest.raises(
        ValueError, match="cites @nobody, which no reference has; there are: @scout, @the-inn"
    ):
        cite("@nobody waves", known)
    with pytest.raises(ValueError, match="there are: none"):
        cite("@nobody waves", [])


def test_a_reference_is_for_the_shots_that_it_names_and_those_that_cite_it() -> None:
    everywhere, some, only = reference("a"), reference("b", shots=(1, 3)), reference("c", shots="cited")
    assert [is_for(everywhere, shot, "") for shot in range(3)] == [True] * 3
    assert [is_for(some, shot, "") for shot in range(4)] == [True, False, True, False]
    assert is_for(some, 1, "@b waves") and not is_for(only, 0, "@a waves") and is_for(only, 0, "by @c")


def test_a_pictures_file_is_cropped_to_the_models_size(tmp_path: Path) -> None:
    from PIL import Image

    wide = np.zeros((64, 200, 3), np.uint8)
    wide[:, 40:160] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    pipeline = tiny_pipeline(reads=True)
    found = fitted_picture(reference(image=str(tmp_path / "wide.png")), pipeline.pixel_size)
    assert found.shape == (32, 48, 3) and (found == 200).all()
    with pytest.raises(ValueError, match=r"reference @scout: .*none.png: No such file"):
        pipeline.session(GLOBAL, references=[reference(image=str(tmp_path / "none.png"))])


def start(pipeline: StreamingPipeline, *references: Reference) -> StorySession:
    return pipeline.session(GLOBAL, seed=3, references=references, quiet=True)


def frames(session: StorySession, caption: str) -> np.ndarray:
    return np.concatenate([chunk.frames for chunk in session.shot(caption)])


def test_a_reference_changes_every_shot_that_sees_it_and_no_other() -> None:
    pipeline = tiny_pipeline(reads=True)
    plain, everywhere = start(pipeline), start(pipeline, reference())
    second = start(pipeline, reference(shots=(2,)))
    films = [
        [frames(session, caption) for caption in ("The fox runs.", "The fox naps.")]
        for session in (plain, everywhere, second)
    ]
    assert not np.array_equal(films[0][0], films[1][0])
    assert np.array_equal(films[0][0], films[2][0]) and not np.array_equal(films[0][1], films[2][1])
    said = frames(start(pipeline, reference()), "@scout runs.")
    assert np.array_equal(said, films[1][0]), "its caption stands for it"


def test_a_saved_session_carries_its_references_without_loss(tmp_path: Path) -> None:
    pipeline = tiny_pipeline(reads=True)
    session = start(pipeline, reference(), reference("den", 200, role="place", shots=(2, 3)))
    frames(session, "@scout runs.")
    session.save(tmp_path / "session")
    loaded = pipeline.load_session(tmp_path / "session", quiet=True)
    assert loaded.references == session.references
    assert np.array_equal(fitted_picture(loaded.references[1], pipeline.pixel_size), picture(200))
    fork = session.fork()
    films = [frames(one, "@scout naps near @den.") for one in (session, loaded, fork)]
    assert np.array_equal(films[0], films[1]) and np.array_equal(films[0], films[2])


def test_references_may_be_added_while_a_film_is_made_and_change_no_finished_shot() -> None:
    pipeline = tiny_pipeline(reads=True)
    session, other = start(pipeline), start(pipeline)
    first = frames(session, "The fox runs.")
    assert np.array_equal(first, frames(other, "The fox runs."))
    session.add_reference(reference())
    assert not np.array_equal(frames(session, "The fox naps."), frames(other, "The fox naps."))
    with pytest.raises(ValueError, match="a reference @scout already"):
        session.add_reference(reference())
    with pytest.raises(ValueError, match="3 references and 0 pinned pictures for all shots, and 2 places"):
        for name in ("a", "b"):
            session.add_reference(reference(name))
    assert [one.id for one in session.references] == ["scout", "a"]


def test_a_running_shot_is_not_steered_to_a_reference_that_it_does_not_see() -> None:
    """A replay, which knows the caption from the start, would show it."""
    session = start(tiny_pipeline(reads=True), reference(), reference("den", 200, shots="cited"))
    shot = session.shot("@scout runs.", num_chunks=3)
    next(shot)
    with pytest.raises(ValueError, match="does not see @den; cut to a new shot that cites it"):
        session.steer("@scout naps near @den.")
    session.steer("@scout naps.")
    assert len(list(shot)) == 2


def test_what_cites_nobody_is_refused_before_anything_is_made() -> None:
    pipeline = tiny_pipeline(reads=True)
    with pytest.raises(ValueError, match="cites @nobody"):
        pipeline.session("A film about @nobody.")
    session = start(pipeline, reference())
    with pytest.raises(ValueError, match="cites @nobody"):
        session.shot("@nobody runs.")
    assert session.shots == ()


def test_a_picture_from_outside_the_world_is_told() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    with pytest.warns(
        ReferenceWarning, match=r"reference @scout: its picture is not one of this model's world"
    ):
        tiny_pipeline(reads=True).session(GLOBAL, references=[reference(image=picture_to_uri(noise))])


def test_a_story_names_its_references() -> None:
    story = story_from_bytes(
        b"""
global_caption: A story about @scout.
references:
  - id: scout
    image: pictures/fox.png
    caption: the red fox
  - image: den.png
    id: "@den"
    caption: in the forest by night
    role: place
    shots: [2]
shots:
  - "@scout runs."
  - caption: Then it is dark.
    num_chunks: 4
    then:
      - after: 2
        caption: "@scout naps: a wide shot"
      - It wakes.
"""
    )
    assert [(one.id, one.image, one.role, one.shots) for one in story.references] == [
        ("scout", "pictures/fox.png", "subject", "all"),
        ("den", "den.png", "place", (2,)),
    ]
    assert [(one.caption, one.chunk_index, one.mode) for one in story.shots[1].then] == [
        ("@scout naps: a wide shot", 2, "recache"),
        ("It wakes.", 3, "recache"),
    ]
    assert not story.warnings
    from shotstream.story import story_from_document

    assert story_from_document(story.to_document()) == story


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("references: fox.png", "'references' is text, no list"),
        ("references: [fox.png]", "reference 1 is text; write its id, image and caption"),
        ("references: [{id: a b, image: x, caption: y}]", "reference 1: the id .* is no word"),
        ("references: [{id: a, caption: y}]", "reference 1: 'image' is missing"),
        ("references: [{id: a, image: x, caption: y, role: prop}]", "role is prop; it is one of subject"),
        ("references: [{id: a, image: x, caption: y, shots: some}]", "write all, cited, or a list of shots"),
        (
            "references: [{id: a, image: x, caption: y}, {id: a, image: z, caption: y}]",
            "two references have the id 'a'",
        ),
    ],
)
def test_a_bad_reference_is_told_with_its_number(text: str, told: str) -> None:
    with pytest.raises(StoryError, match=told):
        story_from_bytes(f"global_caption: A fox.\nshots: [It runs.]\n{text}\n".encode())


@pytest.mark.parametrize(
    ("then", "told"),
    [
        ("[{after: 3, caption: x}]", "goes on after 3 chunks, and the shot has 3"),
        ("[{after: 2, caption: x}, {after: 1, caption: y}]", "let each 'after' be larger"),
        ("[{after: 0, caption: x}]", "after is 0"),
        ("[{after: soon, caption: x}]", "after is .*write a whole number"),
        ("[{after: 1, caption: x, mode: cut}]", "mode is cut; it is one of recache, blend, keep"),
        ("[{after: 1}]", "'caption' is missing"),
    ],
)
def test_a_bad_switch_is_told_with_its_shot(then: str, told: str) -> None:
    text = f"global_caption: A fox.\nshots:\n  - caption: It runs.\n    num_chunks: 3\n    then: {then}\n"
    with pytest.raises(StoryError, match=f"shot 1: .*{told}"):
        story_from_bytes(text.encode())
