"""Make the videos of a whole feed in one task: read and plan rows, submit them, save videos, and report."""
