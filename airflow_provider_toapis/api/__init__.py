"""ToAPIs itself: models, catalog, protocol and HTTP clients. Imports nothing of Airflow."""
