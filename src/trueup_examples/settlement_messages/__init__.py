"""Settlement instructions as ISO 20022 messages on a stream: a format that a package brings."""
