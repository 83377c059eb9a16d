"""Tasks that wait for videos that something else ordered."""
