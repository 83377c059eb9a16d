"""TaskFlow decorators. The decorated function returns the request, and the task makes the videos."""
