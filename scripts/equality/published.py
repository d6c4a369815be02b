"""Writes a tiny model of the 1.3B family as it is published; run by `data.py`, with the old tests."""

import sys
from pathlib import Path

from tests.weights.conftest import TinyModel

TinyModel().write_diffusers(Path(sys.argv[1]))
