"""From an Airflow connection to a ToAPIs client."""
