"""Pages about videos inside Airflow's UI, served by the API server of Airflow 3.1 and newer."""
