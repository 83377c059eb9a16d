"""The demo: ToAPIs emulated on this machine, a real Airflow, and a product catalogue that gets its videos."""
