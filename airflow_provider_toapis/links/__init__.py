"""Extra links on a task's page in Airflow: to its video, its batch report and the service's console."""
