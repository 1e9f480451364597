"""`python -m service` is the command `flawscribe`."""

from service.cli import main

main()
