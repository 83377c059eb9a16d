"""Extra links from a task's page in Airflow to its video, batch report or console."""
