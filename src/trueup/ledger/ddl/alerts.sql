-- Rules, their instances and every transition.
SELECT 1;
