"""Local processes for tests, demo and cluster: Airflow, PostgreSQL, Redis and the emulator."""
