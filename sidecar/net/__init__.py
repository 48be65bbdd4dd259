"""Sockets: the event loop, listeners, the original destination, dialling, TLS to the API server."""
