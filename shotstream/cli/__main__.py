"""`python -m shotstream.cli`: runs the command without an installed script."""

from shotstream.cli import main

main()
