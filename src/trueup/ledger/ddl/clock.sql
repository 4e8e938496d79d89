-- Scheduled work.
SELECT 1;
