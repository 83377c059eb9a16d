"""Sensors that wait for videos that other tasks submitted."""
