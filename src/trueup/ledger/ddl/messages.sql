-- What is to be told to somebody outside.
SELECT 1;
