-- What was done about an item, and the truth that is left untreated.
SELECT 1;
