"""Make the videos of a whole feed in one task: read and plan the rows, submit them, save the videos, report."""
