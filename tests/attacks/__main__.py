"""Tries what users' files, habits and faults do to the program; one row for each attack, JSON last.

    scripts/attack                        all of it
    scripts/attack files --tries 400      one kind, more of it

`files`: damaged files of every kind that is read. `requests`: hostile requests and messages to a studio.
`kills`: SIGKILL at any moment of generate, encode, train and serve. `disk`: full, read-only, locked, and few
descriptors (needs `unshare`, or root). A row's `broken` is 0 or a bug; the exit code is 1 then.
"""

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from tests.attacks.tally import Tally

ATTACKS = ("files", "requests", "kills", "disk")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/attack", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=f"{', '.join(ATTACKS)}; none: all")
    parser.add_argument(
        "--tries", type=int, default=None, help="of each row; default: files 300, requests 3000, kills 5"
    )
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    wanted = options.attacks or list(ATTACKS)
    if unknown := set(wanted) - set(ATTACKS):
        parser.error(f"no attack {sorted(unknown)[0]!r}; there are {', '.join(ATTACKS)}")
    torch.set_num_threads(1)
    rows: list[Tally] = []
    for name in wanted:
        with tempfile.TemporaryDirectory(prefix="attack-") as folder:
            for row in _rows(name, options.tries, Path(folder), random.Random(options.seed)):
                rows.append(row)
                _show(row)
    sys.stdout.write(json.dumps({"rows": [row.document() for row in rows]}, ensure_ascii=False) + "\n")
    return int(any(row.broken for row in rows))


def _rows(name: str, tries: int | None, folder: Path, rng: random.Random) -> Iterator[Tally]:
    """The rows of an attack; each is imported when it is wanted, for their needs differ."""
    if name == "files":
        from tests.attacks.files import attack_files

        yield from attack_files(tries or 300, folder, rng)
    elif name == "requests":
        from tests.attacks.requests import attack_requests

        yield from attack_requests(tries or 3000, folder, rng)
    elif name == "kills":
        from tests.attacks.kills import attack_with_kills

        yield from attack_with_kills(tries or 5, folder, rng)
    else:
        from tests.attacks.disk import attack_disk

        yield from attack_disk(folder)


def _show(row: Tally) -> None:
    counts = f"{row.tried} tried, {row.clean} clean ({row.unseen} read, nothing to see by), "
    sys.stdout.write(f"{row.name:32} {counts}{len(row.broken)} broken, {row.seconds:.0f} s\n")
    for line in row.broken[:5]:
        sys.stdout.write(f"    {line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
