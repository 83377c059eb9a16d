"""Airflow as a cluster on this machine: Celery workers, two triggerers, PostgreSQL and Redis."""
