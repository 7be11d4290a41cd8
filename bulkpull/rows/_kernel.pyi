"""The compiled scanner. It is absent where no compiler built it."""

def version() -> int:
    """Return the version of the kernel's interface."""
