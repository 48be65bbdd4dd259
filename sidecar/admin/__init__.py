"""Health, metrics and status over HTTP on the admin port."""
