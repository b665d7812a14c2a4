"""Measurements of speed and learning; each module is a command that can write JSON."""
