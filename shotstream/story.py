"""Stories: a global caption and the shots, each with its own caption.

Reads ShotStream's YAML (or the same keys as JSON) and the published JSON (`global_caption`, `shot1` ..
`shotN`, and `frames_per_shot`). Invalid values are refused with one line that says how to fix them; unknown
keys are ignored and listed in `Story.warnings`. `compose_caption` builds the text that a model gets for one
shot. There is no tokenizer here: `fit_caption` takes a function that counts tokens.

Source: captions as in arXiv 2603.25746 (each frame attends to the global caption and its own shot's); the
published string is that of the published code.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, cast, get_args

from shotstream.documents import (
    DocumentError,
    kind_of,
    parse_json,
    parse_yaml,
    read_text,
    shorten,
    shown,
    to_text,
    whole_number,
)
from shotstream.geometry import WAN_GEOMETRY
from shotstream.prose import Keys, quote_prose

MAX_STORY_BYTES = 1 << 20
MAX_SHOTS = 1000
MAX_CAPTION_CHARS = 10_000
MAX_TITLE_CHARS = 200
MAX_CHUNKS_PER_SHOT = 1000
MAX_SEED = 2**63 - 1

CaptionStyle = Literal["plain", "published"]
"""Form of the text from a global caption and a shot's caption: joined plainly, or as in the published
code.
"""

ShotCaptions = str | tuple[str, ...]
"""The caption of a shot, or all its captions in order if it was steered."""

_STORIES_DIR = Path(__file__).parent / "stories"
_NUMBERED = re.compile(r"shot[\s_-]*([0-9]{1,6})")
_STORY_KEYS = ("title", "seed", "global_caption", "references", "shots", "frames_per_shot")
_SHOT_KEYS = ("caption", "num_chunks", "seed", "then")
_STEER_KEYS = ("after", "caption", "mode")
_REFERENCE_KEYS = ("id", "image", "caption", "role", "shots")
_MAX_ID_CHARS = 40
_REFERENCE_ID = re.compile(rf"(?=.{{1,{_MAX_ID_CHARS}}}$)\w+(?:-\w+)*")
_YAML_KEYS = Keys(
    prose=r"title|global[ _-]?caption|caption|shot[ _-]?[0-9]{1,6}",
    other=r"seed|shots|num[ _-]?chunks|frames[ _-]?per[ _-]?shot|references|then|id|image|role|after|mode",
    item_prose="caption",
    item_other=r"num[ _-]?chunks|seed|id(?= *: *@?[\w-]+$)|after(?= *: *[0-9]+$)",
)
_YAML_KEY = re.compile(rf"""(?im)^ *["']?(?:{_YAML_KEYS.prose}|{_YAML_KEYS.other})["']? *[:\uff1a]""")
NO_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
"""Characters that no caption or title may hold: they break subtitles and metadata, or have no UTF-8 form."""
_MAX_NAMED = 5
_NO_DASH = re.compile(r"\s*([-+]+|[0-9]{1,4}[.)])")
"""Markers that people write before list entries and that YAML reads as text."""


class StoryError(ValueError):
    """A story that cannot be used; the message is one line for its author."""


SteerMode = Literal["recache", "blend", "keep"]
"""How a running shot turns to a new caption; see `streaming.steering`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Steer:
    """A new caption for a running shot.

    Raises:
        StoryError: The caption is empty or too long, the chunk is out of range, or the mode is unknown.
    """

    caption: str
    """Caption of the shot from this chunk on, exactly as written."""
    chunk_index: int
    """First chunk that has it, counted from 0; at least 1."""
    mode: SteerMode = "recache"
    """How the shot turns to it."""

    def __post_init__(self) -> None:
        _check_text(self.caption, "caption", MAX_CAPTION_CHARS)
        _check_range(self.chunk_index, "after", 1, MAX_CHUNKS_PER_SHOT - 1)
        if self.mode not in get_args(SteerMode):
            raise StoryError(f"mode is {shown(self.mode)}; it is one of {', '.join(get_args(SteerMode))}")


ReferenceRole = Literal["subject", "place", "style"]
"""What a reference shows: someone or something, a place, or the look of the film."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """A reference: a picture of its author's own that conditions shots of a story.

    Raises:
        StoryError: The id is no word, a text is empty or too long, or a shot's number is out of range.
    """

    id: str
    """Word by which captions cite it, as `@id`."""
    image: str
    """Name of the picture's file, or the picture as a data URI."""
    caption: str
    """What the picture shows; it stands in captions in the place of `@id`."""
    role: ReferenceRole = "subject"
    """What it is a reference of."""
    shots: Literal["all", "cited"] | tuple[int, ...] = "all"
    """Numbers, from 1, of the shots that see it besides those that cite it; "cited": no others."""

    def __post_init__(self) -> None:
        if not _REFERENCE_ID.fullmatch(self.id):
            raise StoryError(
                f"the id {shown(self.id)} is no word of up to {_MAX_ID_CHARS} letters, digits, - and _"
            )
        _check_text(self.caption, "caption", MAX_CAPTION_CHARS)
        if not self.image.strip():
            raise StoryError("image is empty; name the picture's file")
        if self.role not in get_args(ReferenceRole):
            raise StoryError(f"role is {shown(self.role)}; it is one of {', '.join(get_args(ReferenceRole))}")
        for number in () if isinstance(self.shots, str) else self.shots:
            _check_range(number, "shots", 1, MAX_SHOTS)

    def to_document(self) -> dict[str, Any]:
        """Returns the reference as plain values; `reference_from_document` reads them."""
        shots = self.shots if isinstance(self.shots, str) else list(self.shots)
        return {
            "id": self.id,
            "image": self.image,
            "caption": self.caption,
            "role": self.role,
            "shots": shots,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Shot:
    """A continuous shot of a story: its caption, length and seed.

    Raises:
        StoryError: The caption is empty or too long, or the length or the seed is out of range.
    """

    caption: str
    """Caption of the shot, exactly as written."""
    num_chunks: int | None = None
    """Length in chunks; None: the model's default length."""
    seed: int | None = None
    """Seed of this shot's noise; None: derived from the story's seed."""
    then: tuple[Steer, ...] = ()
    """Captions that the shot gets while it runs, in order."""

    def __post_init__(self) -> None:
        _check_text(self.caption, "caption", MAX_CAPTION_CHARS)
        _check_range(self.num_chunks, "num_chunks", 1, MAX_CHUNKS_PER_SHOT)
        _check_range(self.seed, "seed", 0, MAX_SEED)
        _check_steers(self.then, self.num_chunks)

    def to_document(self) -> dict[str, Any]:
        """Returns the shot as plain values."""
        document = {
            key: value
            for key in ("caption", "num_chunks", "seed")
            if (value := getattr(self, key)) is not None
        }
        if self.then:
            document["then"] = [
                {"after": steer.chunk_index, "caption": steer.caption, "mode": steer.mode}
                for steer in self.then
            ]
        return document


@dataclass(frozen=True, kw_only=True, slots=True)
class Story:
    """A story: the global caption and the shots of a film.

    Raises:
        StoryError: The global caption is empty, there are no shots or too many, or the seed is out of range.
    """

    global_caption: str
    """Caption of all shots: cast, place and style; exactly as written."""
    shots: tuple[Shot, ...]
    """The shots, in the order of the film."""
    title: str = "Untitled"
    """Title in the film's metadata and on the storyboard."""
    seed: int | None = None
    """Seed of the film; None: chosen by the caller."""
    references: tuple[Reference, ...] = ()
    """Pictures that condition its shots."""
    warnings: tuple[str, ...] = field(default=(), compare=False)
    """Parts of the source document that were ignored, for its author."""

    def __post_init__(self) -> None:
        _check_text(self.global_caption, "global_caption", MAX_CAPTION_CHARS)
        _check_text(self.title, "title", MAX_TITLE_CHARS)
        _check_range(self.seed, "seed", 0, MAX_SEED)
        if not self.shots:
            raise StoryError("a story of 0 shots; write at least one under 'shots'")
        if len(self.shots) > MAX_SHOTS:
            raise StoryError(f"{len(self.shots)} shots; at most {MAX_SHOTS} are allowed: split the story")
        ids = [reference.id for reference in self.references]
        if twice := next((name for name in ids if ids.count(name) > 1), None):
            raise StoryError(f"two references have the id {twice!r}; give each its own")

    def to_document(self) -> dict[str, Any]:
        """Returns the story as plain dicts and lists; `story_from_document` reads them."""
        document: dict[str, Any] = {"title": self.title}
        if self.seed is not None:
            document["seed"] = self.seed
        document["global_caption"] = self.global_caption
        if self.references:
            document["references"] = [reference.to_document() for reference in self.references]
        document["shots"] = [shot.to_document() for shot in self.shots]
        return document

    def to_published_document(self) -> dict[str, str]:
        """Returns the published JSON: numbered from 1, captions only (no title, seeds or lengths)."""
        captions = {f"shot{number}": shot.caption for number, shot in enumerate(self.shots, start=1)}
        return {"global_caption": self.global_caption, **captions}


@dataclass(frozen=True, kw_only=True, slots=True)
class FittedCaption:
    """A composed caption that fits the text encoder."""

    text: str
    """The text to encode."""
    cut: str = ""
    """Text that was cut from the end of the global caption; empty if all of it fits."""


def last_caption(captions: Sequence[ShotCaptions]) -> str:
    """Returns the last of a film's captions."""
    own = captions[-1]
    return own if isinstance(own, str) else own[-1]


def compose_caption(global_caption: str, caption: str, shot_index: int, *, style: CaptionStyle) -> str:
    """Returns the text that the model gets for one shot.

    Args:
        global_caption: The caption of all shots; may be empty in the plain style.
        caption: The shot's own caption.
        shot_index: Index of the shot, from 0; part of the published text, ignored by the plain one.
        style: "plain" joins the two with a space, and collapses white space. "published" is the string of the
            published code: its label counts from 0, and nothing is inserted around it.
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
    shot_index: int,
    style: CaptionStyle,
) -> FittedCaption:
    """Returns the composed caption; the global caption is cut at the end, word by word, until it fits.

    The shot's own caption is never cut here: if it alone is too long, the encoder truncates it.

    Args:
        global_caption: The caption of all shots.
        caption: The shot's own caption.
        max_tokens: Maximum number of tokens of the encoder.
        count_tokens: Returns the number of tokens of a text, with special tokens; it must not decrease when
            words are added.
        shot_index: Index of the shot, from 0.
        style: See `compose_caption`.
    """
    whole = compose_caption(global_caption, caption, shot_index, style=style)
    if count_tokens(whole) <= max_tokens:
        return FittedCaption(text=whole)
    words = global_caption.split()
    fewest_too_many, most_that_fit = len(words), 0
    while fewest_too_many - most_that_fit > 1:
        middle = (fewest_too_many + most_that_fit) // 2
        kept = compose_caption(" ".join(words[:middle]), caption, shot_index, style=style)
        if count_tokens(kept) <= max_tokens:
            most_that_fit = middle
        else:
            fewest_too_many = middle
    text = compose_caption(" ".join(words[:most_that_fit]), caption, shot_index, style=style)
    return FittedCaption(text=text, cut=" ".join(words[most_that_fit:]))


def bundled_stories() -> dict[str, Path]:
    """Returns the stories of the package, file by name, sorted by name."""
    return {path.stem: path for path in sorted(_STORIES_DIR.glob("*.yaml"))}


def find_story(source: str) -> Path:
    """Returns the file of a path or of the name of a bundled story; an existing file has priority.

    Raises:
        StoryError: There is neither.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", source):
        raise StoryError(f"{source}: an address; download the file and give its name")
    path = Path(source)
    try:
        path.stat()
    except OSError as error:
        if source in (bundled := bundled_stories()):
            return bundled[source]
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise StoryError(f"{shorten(source, 80)}: cannot be read: {error.strerror}") from error
        names = ", ".join(bundled) or "none"
        raise StoryError(
            f"{source}: no such file, and no bundled story of that name (there are: {names})"
        ) from error
    if path.is_dir():
        raise StoryError(f"{source}: a directory; give a story file")
    if not path.is_file():
        raise StoryError(f"{source}: no ordinary file; give a story file")
    return path


def read_story(path: Path) -> Story:
    """Returns the story in a YAML or JSON file (at most 1 MiB).

    Raises:
        StoryError: It cannot be read or is invalid; the message begins with the path.
    """
    try:
        story = _read(read_text(path, MAX_STORY_BYTES), path.suffix.lower(), _default_title(path.stem))
        return _beside(story, path.parent)
    except (StoryError, DocumentError) as error:
        raise StoryError(f"{path}: {error}") from error


def _beside(story: Story, directory: Path) -> Story:
    """Returns a story whose pictures have names as seen from here, not from the story's directory."""
    return replace(
        story,
        references=tuple(
            one
            if one.image.startswith("data:")
            else replace(one, image=str(directory / Path(one.image).expanduser()))
            for one in story.references
        ),
    )


def story_from_bytes(data: bytes, *, default_title: str = "Untitled") -> Story:
    """Returns the story in the content of a YAML or JSON file.

    Raises:
        StoryError: As in `read_story`, without a path in the message.
    """
    if len(data) > MAX_STORY_BYTES:
        raise StoryError(f"larger than {MAX_STORY_BYTES} bytes, the most that is read")
    try:
        return _read(to_text(data), "", default_title)
    except DocumentError as error:
        raise StoryError(str(error)) from error


def _read(text: str, suffix: str, title: str) -> Story:
    if suffix in (".csv", ".tsv"):
        named = re.search(r"[^,;\t\n\"]+\.json", text)
        example = f", for example {named[0].strip()}" if named else ""
        raise StoryError(f"a table, not a story; give one of its caption files{example}")
    if suffix == ".json" or text.lstrip().startswith(("{", "[")):
        try:
            return story_from_document(parse_json(text), default_title=title)
        except DocumentError as error:
            if _is_json_lines(text):
                raise StoryError(f"JSON Lines; a story is one object: {_form()}") from error
            if suffix == ".json" or re.match(r"\s*[\[{]\s*[\u2018-\u201f]", text):
                raise
            try:
                document = parse_yaml(text)  # YAML in flow style, which is less strict
            except DocumentError:
                raise error from None
            return story_from_document(document, default_title=title)
    if not _YAML_KEY.search(text):
        num_lines = sum(bool(line.strip()) for line in text.split("\n"))
        lines = "1 line" if num_lines == 1 else f"{num_lines} lines"
        raise StoryError(f"not a story, but {lines} of text; write {_form(num_lines)}")
    quoted, comments = quote_prose(text, _YAML_KEYS)
    story = story_from_document(parse_yaml(quoted), default_title=title)
    if not comments:
        return story
    told = f"left out as comments (quotes make them a part of the text): {_list(comments)}"
    return replace(story, warnings=(*story.warnings, told))


def _is_json_lines(text: str) -> bool:
    lines = [line for line in text.split("\n") if line.strip()]
    try:
        return len(lines) > 1 and all(isinstance(parse_json(line), dict) for line in lines[:2])
    except DocumentError:
        return False


def _default_title(name: str) -> str:
    """Returns a title from the name of a file, without characters that a title must not have."""
    return NO_TEXT.sub("?", name).strip()[:MAX_TITLE_CHARS] or "Untitled"


def story_from_document(document: object, *, default_title: str = "Untitled") -> Story:
    """Returns the story in parsed YAML or JSON, with ShotStream's keys or the published ones.

    Raises:
        StoryError: A key is missing, or a value has the wrong type. Unknown keys are listed in
            `Story.warnings`.
    """
    if isinstance(document, list):
        entries = cast("list[object]", document)
        if entries and all(isinstance(entry, Mapping) and "global_caption" in entry for entry in entries):
            raise StoryError(
                f"a list of stories ({len(entries)}); give one of them, without the list around it"
            )
        raise StoryError(f"a list of {len(entries)} entries, not a story; write {_form(len(entries))}")
    if not isinstance(document, Mapping):
        raise StoryError(f"not a story; write {_form()}")
    ignored: list[str] = []
    found, numbered = _sort_keys(cast("Mapping[object, object]", document), _STORY_KEYS, ignored)
    shots = found.get("shots")
    if isinstance(shots, Mapping) and not numbered:
        _, numbered = _sort_keys(cast("Mapping[object, object]", shots), (), ignored)
    if numbered and isinstance(shots, list):
        raise StoryError("both a list under 'shots' and numbered shots; leave one of them out")
    items = _in_order(numbered) if numbered else shots
    if items is None:
        raise StoryError(f"'shots' is missing; write {_form()}, or a list of captions under 'shots'")
    if isinstance(items, str) and (sign := _NO_DASH.match(items)):
        raise StoryError(
            f"'shots' begins with {shown(sign[1])!r}; "
            "begin each caption with '- ' (a dash and an ordinary space)"
        )
    if not isinstance(items, list):
        raise StoryError(
            f"'shots' is {kind_of(items)}, no list; write captions in a list, in YAML each after '- '"
        )
    items = cast("list[object]", items)
    if len(items) > MAX_SHOTS:
        raise StoryError(f"{len(items)} shots; at most {MAX_SHOTS} are allowed: split the story")
    warnings: list[str] = []
    lengths = _lengths(found.get("frames_per_shot"), len(items), warnings)
    built = tuple(_shot(item, number, lengths[number - 1], ignored) for number, item in enumerate(items, 1))
    references = _references(found.get("references"), ignored)
    if ignored:
        warnings.insert(0, f"keys that are not read: {_list(ignored, _MAX_NAMED)}")
    title = found.get("title")
    has_title = title is not None and not (isinstance(title, str) and not title.strip())
    return Story(
        global_caption=_text(found, "global_caption"),
        shots=built,
        title=_text(found, "title") if has_title else default_title[:MAX_TITLE_CHARS],
        seed=_whole_number(found, "seed"),
        references=references,
        warnings=tuple(warnings),
    )


def _sort_keys(
    entries: Mapping[object, object], known: Sequence[str], ignored: list[str], where: str = ""
) -> tuple[dict[str, object], dict[int, object]]:
    """Returns values by known keys, and shots by number; other keys are appended to `ignored`."""
    names = {name.replace("_", ""): name for name in known}
    found: dict[str, object] = {}
    numbered: dict[int, object] = {}
    for key, value in entries.items():
        written = _plain_key(str(key))
        plain = re.sub(r"[\s_-]+", "", written)
        number = None if where else _NUMBERED.fullmatch(written)
        if number is None and plain not in names:
            close = get_close_matches(plain[:40], names, 1, 0.75)
            hint = "; ".join([where] * bool(where) + [f"{names[name]}?" for name in close])
            ignored.append(f"'{shorten(str(key))}'" + (f" ({hint})" if hint else ""))
            continue
        target, name = (found, names[plain]) if number is None else (numbered, int(number[1]))
        if name in target:
            raise StoryError(f"'{shorten(str(key))}' is given twice, in different letters")
        target[name] = value  # pyright: ignore[reportArgumentType]
    return found, numbered


def _plain_key(key: str) -> str:
    """Returns a key without invisible differences: full-width letters, marks without width, case."""
    seen = "".join(char for char in unicodedata.normalize("NFKC", key) if unicodedata.category(char) != "Cf")
    return seen.strip().casefold()


def _in_order(numbered: Mapping[int, object]) -> list[object]:
    if 0 in numbered:
        raise StoryError(f"'shot0': the first shot is shot1; number them shot1 to shot{len(numbered)}")
    if missing := next((number for number in range(1, len(numbered) + 1) if number not in numbered), None):
        raise StoryError(
            f"'shot{missing}' is missing; number the shots shot1 to shot{len(numbered)} without a gap"
        )
    return [numbered[number] for number in sorted(numbered)]


def _lengths(value: object, num_shots: int, warnings: list[str]) -> list[int | None]:
    """Returns the chunks of each shot, nearest to its number of frames; None if not given."""
    if value is None:
        return [None] * num_shots
    given = cast("list[object]", value) if isinstance(value, list) else [value] * num_shots
    if len(given) != num_shots:
        raise StoryError(f"frames_per_shot has {len(given)} lengths for {num_shots} shots; give one for each")
    lengths: list[int | None] = []
    changed: dict[int, int] = {}
    for entry in given:
        frames = whole_number(entry)
        most = WAN_GEOMETRY.shot_num_frames(MAX_CHUNKS_PER_SHOT)
        if frames is None or not 1 <= frames <= most:
            raise StoryError(
                f"frames_per_shot holds {shown(entry)}; allowed are whole numbers from 1 to {most}"
            )
        chunks = WAN_GEOMETRY.nearest_num_chunks(frames)
        lengths.append(chunks)
        if WAN_GEOMETRY.shot_num_frames(chunks) != frames:
            changed[frames] = WAN_GEOMETRY.shot_num_frames(chunks)
    if changed:
        told = [f"{frames} become {filled}" for frames, filled in changed.items()]
        warnings.append(f"frames_per_shot that do not fill whole chunks: {_list(told)}")
    return lengths


def _shot(item: object, number: int, length: int | None, ignored: list[str]) -> Shot:
    try:
        if not isinstance(item, Mapping):
            return Shot(caption=_text({"caption": item}, "caption"), num_chunks=length)
        entries = cast("Mapping[object, object]", item)
        found, _ = _sort_keys(entries, _SHOT_KEYS, ignored, f"shot {number}")
        if "caption" not in found:
            there = _list([f"'{shorten(str(key))}'" for key in entries]) or "none"
            raise StoryError(
                f"'caption' is missing (there are: {there}); a caption with a colon or brackets needs quotes"
            )
        chunks = _whole_number(found, "num_chunks")
        return Shot(
            caption=_text(found, "caption"),
            num_chunks=length if chunks is None else chunks,
            seed=_whole_number(found, "seed"),
            then=_steers(found.get("then"), ignored, f"shot {number}, then"),
        )
    except StoryError as error:
        raise StoryError(f"shot {number}: {error}") from error


def _steers(value: object, ignored: list[str], where: str) -> tuple[Steer, ...]:
    """Returns the captions under `then`; one without `after` follows a chunk after the one before it."""
    entries = cast("list[object]", value) if isinstance(value, list) else [] if value is None else [value]
    steers: list[Steer] = []
    for entry in entries:
        found: dict[str, object] = {"caption": entry}
        if isinstance(entry, Mapping):
            found, _ = _sort_keys(cast("Mapping[object, object]", entry), _STEER_KEYS, ignored, where)
        after = _whole_number(found, "after")
        mode = _one_of(found, "mode", get_args(SteerMode))
        steers.append(
            Steer(
                caption=_text(found, "caption"),
                chunk_index=(steers[-1].chunk_index + 1 if steers else 1) if after is None else after,
                mode=cast("SteerMode", mode),
            )
        )
    return tuple(steers)


def _references(value: object, ignored: list[str]) -> tuple[Reference, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise StoryError(f"'references' is {kind_of(value)}, no list; write an entry for each after '- '")
    references: list[Reference] = []
    for number, entry in enumerate(cast("list[object]", value), 1):
        if not isinstance(entry, Mapping):
            raise StoryError(f"reference {number} is {kind_of(entry)}; write its id, image and caption")
        found, _ = _sort_keys(
            cast("Mapping[object, object]", entry), _REFERENCE_KEYS, ignored, f"reference {number}"
        )
        try:
            references.append(reference_from_document(found))
        except StoryError as error:
            raise StoryError(f"reference {number}: {error}") from error
    return tuple(references)


def reference_from_document(document: Mapping[str, object]) -> Reference:
    """Returns the reference in parsed YAML or JSON.

    Raises:
        StoryError: A key is missing, or a value has the wrong type.
    """
    shots: object = document.get("shots")
    if shots is None:
        shots = "all"
    if not isinstance(shots, str):
        numbers = [whole_number(one) for one in (shots if isinstance(shots, list) else [shots])]
        if None in numbers:
            raise StoryError(f"shots is {shown(shots)}; write all, cited, or a list of shots' numbers")
        shots = tuple(cast("list[int]", numbers))
    elif shots not in ("all", "cited"):
        raise StoryError(f"shots is {shown(shots)}; write all, cited, or a list of shots' numbers")
    return Reference(
        id=_text(document, "id").removeprefix("@"),
        image=_text(document, "image"),
        caption=_text(document, "caption"),
        role=cast("ReferenceRole", _one_of(document, "role", get_args(ReferenceRole))),
        shots=cast("Any", shots),
    )


def _one_of(entries: Mapping[str, object], key: str, words: Sequence[str]) -> str:
    """Returns the word of a key, by default the first one."""
    value = entries.get(key) or words[0]
    if value not in words:
        raise StoryError(f"{key} is {shown(value)}; it is one of {', '.join(words)}")
    return cast("str", value)


def _text(entries: Mapping[str, object], key: str) -> str:
    if key not in entries:
        raise StoryError(f"'{key}' is missing")
    value = entries[key]
    if value is None:
        raise StoryError(f"{key} is empty; describe what the shot shows")
    if not isinstance(value, str):
        what_to_do = "write one text" if isinstance(value, list | dict) else "put it in quotes"
        raise StoryError(f"{key} is not text but {kind_of(value)}; {what_to_do}")
    return value


def _whole_number(entries: Mapping[str, object], key: str) -> int | None:
    value = entries.get(key)
    if value is None or value in ("null", "Null", "NULL", "~"):
        return None
    number = whole_number(value)
    if number is None:
        raise StoryError(f"{key} is {shown(value)}; write a whole number")
    return number


def _form(num_shots: int = 0) -> str:
    shots = "shot1 (its caption)" if num_shots == 1 else f"shot1 to shot{num_shots or 'N'} (a caption each)"
    return f"global_caption (what all shots share), and {shots}"


def _list(things: Sequence[str], most: int = 3) -> str:
    more = f" and {len(things) - most} more" if len(things) > most else ""
    return ", ".join(things[:most]) + more


def _check_steers(steers: Sequence[Steer], num_chunks: int | None) -> None:
    places = [steer.chunk_index for steer in steers]
    if places != sorted(set(places)):
        raise StoryError("the captions under 'then' do not follow each other; let each 'after' be larger")
    if num_chunks is not None and places and places[-1] >= num_chunks:
        raise StoryError(
            f"'then' goes on after {places[-1]} chunks, and the shot has {num_chunks}; "
            "give it more num_chunks, or a smaller 'after'"
        )


def _check_text(value: str, name: str, max_chars: int) -> None:
    if not value.strip():
        raise StoryError(f"{name} is empty; describe what the shot shows")
    if len(value) > max_chars:
        raise StoryError(f"{name} has {len(value)} characters; at most {max_chars} are allowed")
    if bad := NO_TEXT.search(value):
        raise StoryError(f"{name} holds the character U+{ord(bad[0]):04X}; remove it")


def _check_range(value: int | None, name: str, low: int, high: int) -> None:
    if value is not None and not low <= value <= high:
        raise StoryError(f"{name} is {shorten(str(value))}; allowed are {low} to {high}")
