"""Measurements of what the design promises. Each is one command and prints its figure on the last line."""
