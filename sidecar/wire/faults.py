"""What ends a connection."""


class ConnectionFault(Exception):  # noqa: N818 - RFC 9113 calls it a connection error; it is not a bug of ours
    """The peer broke a rule that ends the connection (RFC 9113 section 5.4.1)."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
