"""Which securities will fail to settle tomorrow? From the SEC's fails-to-deliver files."""
