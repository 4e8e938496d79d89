-- Runs of reports.
SELECT 1;
