"""TaskFlow decorators: a function returns the request, the operator makes the videos."""
