"""The demo: ToAPIs emulated on this machine, a real Airflow, and a product catalog that gets its videos."""
