"""Online inference by open protocols: gathered into batches, booked before it is answered."""
