"""ToAPIs itself: models, catalogue, protocol and HTTP clients. Imports nothing of Airflow."""
