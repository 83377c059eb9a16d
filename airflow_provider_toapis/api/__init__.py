"""ToAPIs itself: models, catalog, protocol and HTTP clients. Of Airflow it imports only what the errors derive from."""
