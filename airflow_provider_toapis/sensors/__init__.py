"""Sensors: wait for a video that another task submitted."""
