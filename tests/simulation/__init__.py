"""Deterministic simulations: pulls from an in-memory Clickwrap on a virtual clock, where hours take seconds."""
