"""Endpoints and their loads to a pick. Pure: time and randomness are arguments."""
