"""Tasks that make, change and move videos."""
