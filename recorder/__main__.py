"""`python -m recorder` is the command `recorder`."""

from recorder.cli import main

main()
