"""Operators that make videos, upload files and download videos."""
