"""What builds the documentation and checks the distributions; not part of the package."""
