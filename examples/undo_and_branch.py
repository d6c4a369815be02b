"""A shot is undone, made again, and a second version of the story branches off.

python examples/undo_and_branch.py
"""

import shotstream


def film(session: shotstream.StorySession, caption: str) -> None:
    """Makes a shot of one chunk to its end."""
    for _ in session.shot(caption, num_chunks=1):
        pass


def main() -> tuple[shotstream.StorySession, shotstream.StorySession]:
    """Two versions of a story that have their first shot in common."""
    session = shotstream.load("theatre").session("A yellow owl on the beach at noon.", seed=3)
    film(session, "Wide shot: the yellow owl walks to the left on the beach at noon.")
    film(session, "Close-up: the yellow owl sleeps on the beach at noon.")

    session.undo()  # the first shot is the last one again

    branch = session.fork()  # costs nothing: finished shots are shared and never change
    film(session, "Close-up: the yellow owl waits on the beach at noon.")
    film(branch, "Medium shot: the yellow owl waves hello on the beach at night.")

    for _ in branch.retake(-1):  # the same caption with the next seed
        pass
    return session, branch


if __name__ == "__main__":
    for version in main():
        print([take.caption for take in version.shots])
