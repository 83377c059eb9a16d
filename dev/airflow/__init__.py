"""Processes on this machine: Airflow, PostgreSQL, Redis and the emulator, for tests, demo and cluster."""
