"""A local Airflow cluster: Celery workers, two triggerers, PostgreSQL and Redis."""
