"""Hook that calls ToAPIs through an Airflow connection."""
