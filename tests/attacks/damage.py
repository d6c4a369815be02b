"""Ways in which a file comes to harm: half a download, a flipped bit, a lost sector, another file."""

import random
from collections.abc import Callable

Damage = Callable[[bytes, random.Random], bytes]


def truncated(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def flipped(content: bytes, rng: random.Random) -> bytes:
    """One bit."""
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


def flipped_early(content: bytes, rng: random.Random) -> bytes:
    """One bit of the first 4096 bytes, where headers are."""
    place = rng.randrange(min(len(content), 4096))
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


def zeroed(content: bytes, rng: random.Random) -> bytes:
    """A sector of 512 bytes, or what there is of it."""
    place = rng.randrange(len(content))
    end = min(len(content), place + 512)
    return content[:place] + bytes(end - place) + content[end:]


def cut_out(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content))
    return content[:place] + content[place + rng.randrange(1, 65) :]


def grown(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content) + 1)
    return content[:place] + rng.randbytes(rng.randrange(1, 65)) + content[place:]


def emptied(_content: bytes, _rng: random.Random) -> bytes:
    return b""


def another(_content: bytes, rng: random.Random) -> bytes:
    """What a server sends in place of the file, or noise."""
    return rng.choice(
        (
            b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 5676070424\n",
            rng.randbytes(3000),
            b"PK\x03\x04" + rng.randbytes(100),
            b"\xff\xfe" + "half of a text".encode("utf-16-le"),
        )
    )


DAMAGES: tuple[tuple[str, Damage, int], ...] = (
    ("truncated", truncated, 3),
    ("flipped", flipped, 6),
    ("flipped early", flipped_early, 3),
    ("zeroed", zeroed, 2),
    ("cut out", cut_out, 2),
    ("grown", grown, 2),
    ("emptied", emptied, 1),
    ("another", another, 1),
)
"""(name, what it does, how often of 20)."""


def draw(rng: random.Random) -> tuple[str, Damage]:
    name, damage, _ = rng.choices(DAMAGES, [often for *_, often in DAMAGES])[0]
    return name, damage
