"""`python -m bulkpull`."""

from bulkpull.cli import main

main()
