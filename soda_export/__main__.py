"""`python -m soda_export` is `soda-export`."""

from .cli.app import main

main()
