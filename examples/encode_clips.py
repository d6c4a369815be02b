"""Clips with captions become shards of latents, which training streams.

    python examples/encode_clips.py

The clips are drawn here. For your own, write a manifest (docs/data.md) and leave the first step out.
Needs `pip install 'shotstream[train]'`.
"""

from pathlib import Path

from shotstream.data.encode import EncodeConfig, EncodeReport, encode_manifest
from shotstream.data.shard_check import check_shards
from shotstream.streaming.loading import load_encoders
from shotstream.theatre.dataset import DatasetConfig, write_dataset


def main(directory: Path = Path("out")) -> EncodeReport:
    """Encodes four clips of two shots into two shards, and checks every byte of them."""
    write_dataset(directory / "clips", DatasetConfig(num_stories=4, num_shots=2))
    report = encode_manifest(
        directory / "clips" / "clips.csv",
        load_encoders("theatre"),
        directory / "shards",
        EncodeConfig(clips_per_shard=2),
        progress=lambda done, total, left_out: print(f"{done} of {total} clips {left_out}"),
    )
    for finding in check_shards(directory / "shards"):
        print(finding)
    return report


if __name__ == "__main__":
    print(main())
