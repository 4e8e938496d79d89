"""Reading the ledger: queries under the read-only role."""
