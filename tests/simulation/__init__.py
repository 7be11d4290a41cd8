"""Pulls on a clock that jumps, against a Clickwrap in memory: hours of a server's time in seconds, and the same again
for the same seed."""
