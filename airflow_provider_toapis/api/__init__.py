"""ToAPIs API: requests, responses, model catalog and HTTP clients. It imports Airflow only through ``exceptions``."""
