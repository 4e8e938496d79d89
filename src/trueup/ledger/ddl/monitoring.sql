-- What predictions were measured to be.
SELECT 1;
