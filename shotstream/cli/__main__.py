"""`python -m shotstream.cli`: the command without an installed script."""

from shotstream.cli import main

main()
