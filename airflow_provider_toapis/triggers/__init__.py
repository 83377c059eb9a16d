"""Triggers, which wait for videos in the triggerer, and their events."""
