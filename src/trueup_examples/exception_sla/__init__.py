"""Will this ticket of the exception queue miss its SLA? From an event log of incidents."""
