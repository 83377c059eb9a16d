"""ToAPIs API: requests, responses, model catalog and HTTP clients. Imports Airflow only through ``exceptions``."""
