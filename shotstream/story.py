"""What a film is about: a global caption and the shots, each with its own caption.

Reads our YAML (or the same keys as JSON) and the published JSON (`global_caption`, `shot1` .. `shotN`),
refuses anything it does not understand with one line that says how to mend it, and composes the text that a
model is given for one shot. It knows no tokenizer: `fit_caption` is handed a function that counts tokens.

Source: captions as in arXiv 2603.25746 (each frame attends to the global caption and its own shot's); the
published string is that of the published code.
"""

import json
import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import yaml

MAX_STORY_BYTES = 1 << 20
MAX_SHOTS = 1000
MAX_CAPTION_CHARS = 10_000
MAX_TITLE_CHARS = 200
MAX_CHUNKS_PER_SHOT = 1000
MAX_SEED = 2**63 - 1

CaptionStyle = Literal["plain", "published"]
"""How a global caption and a shot's caption become one text: ours, or the published code's string."""

_STORIES_DIR = Path(__file__).parent / "stories"
_PUBLISHED_KEY = re.compile(r"shot([1-9][0-9]{0,5})")


class StoryError(ValueError):
    """A story that cannot be filmed; the message is one line for the person who wrote it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shot:
    """One continuous shot.

    Raises:
        StoryError: on an empty or overlong caption, or a length or seed out of range.
    """

    caption: str
    """What the shot shows; kept exactly as written."""
    num_chunks: int | None = None
    """Length in chunks; None: the model's usual length."""
    seed: int | None = None
    """Seed of this shot's noise; None: derived from the story's seed."""

    def __post_init__(self) -> None:
        _check_text(self.caption, "caption", MAX_CAPTION_CHARS)
        _check_range(self.num_chunks, "num_chunks", 1, MAX_CHUNKS_PER_SHOT)
        _check_range(self.seed, "seed", 0, MAX_SEED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Story:
    """A film's script.

    Raises:
        StoryError: on an empty global caption, no shots, too many, or a seed out of range.
    """

    global_caption: str
    """Cast, place and style: what all shots share; kept exactly as written."""
    shots: tuple[Shot, ...]
    """In the order in which they are shown."""
    title: str = "Untitled"
    """Shown in the film's metadata and on the storyboard."""
    seed: int | None = None
    """Seed of the film; None: chosen by whoever films it."""

    def __post_init__(self) -> None:
        _check_text(self.global_caption, "global_caption", MAX_CAPTION_CHARS)
        _check_text(self.title, "title", MAX_TITLE_CHARS)
        _check_range(self.seed, "seed", 0, MAX_SEED)
        if not self.shots:
            raise StoryError("a story of 0 shots; write at least one under 'shots'")
        if len(self.shots) > MAX_SHOTS:
            raise StoryError(f"{len(self.shots)} shots; at most {MAX_SHOTS} are allowed: split the story")

    def to_document(self) -> dict[str, Any]:
        """The story as plain dicts and lists under our keys; `story_from_document` inverts it."""
        document: dict[str, Any] = {"title": self.title}
        if self.seed is not None:
            document["seed"] = self.seed
        document["global_caption"] = self.global_caption
        document["shots"] = [
            {
                key: value
                for key in ("caption", "num_chunks", "seed")
                if (value := getattr(shot, key)) is not None
            }
            for shot in self.shots
        ]
        return document

    def to_published_document(self) -> dict[str, str]:
        """The published JSON's keys: 1-based, captions only (no title, seeds or lengths)."""
        captions = {f"shot{number}": shot.caption for number, shot in enumerate(self.shots, start=1)}
        return {"global_caption": self.global_caption, **captions}


@dataclass(frozen=True, kw_only=True, slots=True)
class FittedCaption:
    """A composed caption that fits its encoder."""

    text: str
    """What is encoded."""
    cut: str = ""
    """What was cut from the end of the global caption; empty when all of it fits."""


def compose_caption(global_caption: str, caption: str, shot_index: int, style: CaptionStyle = "plain") -> str:
    """The text given to the model for one shot.

    Args:
        global_caption: what all shots share; may be empty in the plain style.
        caption: the shot's own.
        shot_index: 0-based; part of the published text, ignored by the plain one.
        style: "plain" joins the two by a space, with runs of white space collapsed. "published" is the
            published code's string: the label is 0-based and nothing is inserted around it.
    """
    if style == "published":
        return f"{global_caption}shot{shot_index}:{caption}"
    return " ".join(f"{global_caption} {caption}".split())


def fit_caption(
    global_caption: str,
    caption: str,
    max_tokens: int,
    count_tokens: Callable[[str], int],
    *,
    shot_index: int = 0,
    style: CaptionStyle = "plain",
) -> FittedCaption:
    """The composed caption, with the end of the global caption cut, word by word, until it fits.

    The shot's own text is never cut here: where it alone is too long, the encoder's own truncation remains.

    Args:
        global_caption: what all shots share.
        caption: the shot's own.
        max_tokens: what the encoder takes.
        count_tokens: number of tokens of a text, special tokens included; it may
            not shrink as words are added.
        shot_index: 0-based.
        style: see `compose_caption`.
    """
    whole = compose_caption(global_caption, caption, shot_index, style)
    if count_tokens(whole) <= max_tokens:
        return FittedCaption(text=whole)
    words = global_caption.split()
    fewest_too_many, most_that_fit = len(words), 0
    while fewest_too_many - most_that_fit > 1:
        middle = (fewest_too_many + most_that_fit) // 2
        kept = compose_caption(" ".join(words[:middle]), caption, shot_index, style)
        if count_tokens(kept) <= max_tokens:
            most_that_fit = middle
        else:
            fewest_too_many = middle
    text = compose_caption(" ".join(words[:most_that_fit]), caption, shot_index, style)
    return FittedCaption(text=text, cut=" ".join(words[most_that_fit:]))


def bundled_stories() -> dict[str, Path]:
    """The stories shipped with the package, name -> file, sorted by name."""
    return {path.stem: path for path in sorted(_STORIES_DIR.glob("*.yaml"))}


def find_story(source: str) -> Path:
    """The file meant by a path or by the name of a bundled story; a file wins over a name.

    Raises:
        StoryError: when there is neither.
    """
    path = Path(source)
    if path.is_file():
        return path
    if path.is_dir():
        raise StoryError(f"{source}: a directory; give a story file")
    bundled = bundled_stories()
    if source in bundled:
        return bundled[source]
    names = ", ".join(bundled) or "none"
    raise StoryError(f"{source}: no such file, and no bundled story of that name (there are: {names})")


def read_story(path: Path) -> Story:
    """The story in a YAML or JSON file (UTF-8, at most 1 MiB).

    Raises:
        StoryError: on anything that cannot be read or understood; the message begins with the path.
    """
    try:
        return story_from_document(_parse(_read_text(path), path), default_title=path.stem)
    except StoryError as error:
        raise StoryError(f"{path}: {error}") from error


def story_from_document(document: object, *, default_title: str = "Untitled") -> Story:
    """The story in parsed YAML or JSON: our keys, or the published ones.

    Raises:
        StoryError: on unknown or missing keys and on values of the wrong kind.
    """
    if not isinstance(document, Mapping):
        raise StoryError("not a story; write the keys global_caption and shots")
    entries = cast("Mapping[object, object]", document)
    is_published = "shots" not in entries and any(
        isinstance(key, str) and _PUBLISHED_KEY.fullmatch(key) for key in entries
    )
    if is_published:
        return _from_published(entries, default_title)
    _check_keys(entries, ("title", "seed", "global_caption", "shots"))
    shots = entries.get("shots")
    if not isinstance(shots, list):
        raise StoryError("'shots' is missing or no list; write one entry per shot under it")
    items = cast("list[object]", shots)
    if len(items) > MAX_SHOTS:
        raise StoryError(f"{len(items)} shots; at most {MAX_SHOTS} are allowed: split the story")
    return Story(
        global_caption=_text(entries, "global_caption"),
        shots=tuple(_shot_from_document(item, number) for number, item in enumerate(items, start=1)),
        title=_text(entries, "title") if "title" in entries else default_title[:MAX_TITLE_CHARS],
        seed=_whole_number(entries, "seed"),
    )


def _from_published(entries: Mapping[object, object], title: str) -> Story:
    numbers = [int(match[1]) for key in entries if (match := _PUBLISHED_KEY.fullmatch(str(key)))]
    expected = list(range(1, len(numbers) + 1))
    if sorted(numbers) != expected:
        missing = min(set(range(1, max(numbers) + 1)) - set(numbers))
        raise StoryError(
            f"'shot{missing}' is missing; number the shots shot1 to shot{len(numbers)} without a gap"
        )
    _check_keys(entries, ("global_caption", *(f"shot{number}" for number in expected)))
    return Story(
        global_caption=_text(entries, "global_caption"),
        shots=tuple(_shot_from_document(entries[f"shot{number}"], number) for number in expected),
        title=title[:MAX_TITLE_CHARS],
    )


def _shot_from_document(item: object, number: int) -> Shot:
    entries = cast("Mapping[object, object]", item) if isinstance(item, Mapping) else {"caption": item}
    try:
        _check_keys(entries, ("caption", "num_chunks", "seed"))
        return Shot(
            caption=_text(entries, "caption"),
            num_chunks=_whole_number(entries, "num_chunks"),
            seed=_whole_number(entries, "seed"),
        )
    except StoryError as error:
        raise StoryError(f"shot {number}: {error}") from error


def _text(entries: Mapping[Any, object], key: str) -> str:
    if key not in entries:
        raise StoryError(f"'{key}' is missing")
    value = entries[key]
    if value is None:
        raise StoryError(f"{key} is empty; say what is to be seen")
    if not isinstance(value, str):
        raise StoryError(f"{key} is no text but {type(value).__name__}; put it in quotes")
    return value


def _whole_number(entries: Mapping[Any, object], key: str) -> int | None:
    value = entries.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise StoryError(f"{key} is {_shorten(repr(value))}; write a whole number")
    return value


def _check_keys(entries: Mapping[Any, object], known: tuple[str, ...]) -> None:
    unknown = [str(key) for key in entries if key not in known]
    if unknown:
        shown = ", ".join(f"'{_shorten(key)}'" for key in unknown[:3])
        allowed = known if len(known) <= 6 else (*known[:3], "...", known[-1])
        raise StoryError(f"unknown key {shown}; the keys are {', '.join(allowed)}")


def _check_text(value: str, name: str, max_chars: int) -> None:
    if not value.strip():
        raise StoryError(f"{name} is empty; say what is to be seen")
    if len(value) > max_chars:
        raise StoryError(f"{name} has {len(value)} characters; at most {max_chars} are allowed")
    # Lone surrogates have no UTF-8 form; the other control characters would break subtitles and metadata.
    bad = next(
        (char for char in value if (char < " " and char not in "\t\n\r") or "\ud800" <= char <= "\udfff"), ""
    )
    if bad:
        raise StoryError(f"{name} holds the character U+{ord(bad):04X}; remove it")


def _check_range(value: int | None, name: str, low: int, high: int) -> None:
    if value is not None and not low <= value <= high:
        raise StoryError(f"{name} is {_shorten(str(value))}; allowed are {low} to {high}")


def _shorten(text: str) -> str:
    return text if len(text) <= 40 else text[:39] + "…"


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_STORY_BYTES + 1)
    except OSError as error:
        raise StoryError(f"cannot be read: {error.strerror}") from error
    if len(data) > MAX_STORY_BYTES:
        raise StoryError(f"larger than {MAX_STORY_BYTES} bytes, the most a story may have")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StoryError(f"not UTF-8 (byte {error.start}); save it as UTF-8") from error


def _parse(text: str, path: Path) -> object:
    try:
        if path.suffix.lower() == ".json":
            return json.loads(text, object_pairs_hook=_unique_pairs)
        return yaml.load(text, Loader=_UniqueKeyLoader)
    except json.JSONDecodeError as error:
        raise StoryError(f"no valid JSON: {error.msg} (line {error.lineno}, column {error.colno})") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise StoryError(f"no valid YAML: {problem}{where}") from error
    except RecursionError as error:
        raise StoryError("nested too deeply; a story is a mapping with a list of shots") from error


def _unique_pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise StoryError(f"'{_shorten(key)}' is given twice")
        found[key] = value
    return found


class _UniqueKeyLoader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys without a word: a lost shot nobody would notice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = cast("object", self.construct_object(key_node, deep=True))
            if not isinstance(key, Hashable) or key in seen:
                raise StoryError(
                    f"{_shorten(repr(key))} is given twice (line {key_node.start_mark.line + 1})"
                )
            seen.add(key)
        return super().construct_mapping(node, deep)
