"""A program directs a story in a running studio: HTTP to create it, a WebSocket to direct and watch it.

    shotstream serve                              # in another terminal
    python examples/studio_client.py

docs/studio_protocol.md has every message. Needs `pip install 'shotstream[studio]'`.
"""

import json
import urllib.request
from pathlib import Path

from websockets.sync.client import connect

STORY = {"title": "The fox", "global_caption": "A purple fox in the forest at sunset.", "autoplay": True}
SHOT = {"caption": "Wide shot: the purple fox walks to the right in the forest at sunset.", "num_chunks": 2}


def main(host: str = "127.0.0.1:8720", output: Path = Path("film.mp4")) -> list[int]:
    """Makes a story of one shot, saves its film; returns the frames of each chunk as it arrived."""
    body = json.dumps(STORY).encode()
    create = urllib.request.Request(f"http://{host}/api/stories", body, {"content-type": "application/json"})
    with urllib.request.urlopen(create) as answer:
        story_id = json.load(answer)["story_id"]
    chunks: list[int] = []
    with connect(f"ws://{host}/api/stories/{story_id}/live", max_size=2**24) as socket:
        socket.send(json.dumps({"type": "add_shot", "id": "first", "shot": SHOT}))
        for message in socket:
            if isinstance(message, bytes):
                continue  # a fragment of MP4, for a player; the text message before it says which
            event = json.loads(message)
            chunks += [event["num_frames"]] if event["type"] == "media" else []
            if event["type"] == "story" and any(shot["take_id"] for shot in event["story"]["shots"]):
                break  # the take is finished and on disk
    urllib.request.urlretrieve(f"http://{host}/api/stories/{story_id}/export/film.mp4", output)
    return chunks


if __name__ == "__main__":
    print(main())
