"""``python -m trueup``: the command line, where its script is not on the path."""

from trueup.doors.cli.server import main

main()
