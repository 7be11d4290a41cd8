"""Defaults that the command line shows."""

BASE_URL = "https://api.pactsafe.com/v1.1"
