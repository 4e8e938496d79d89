-- By priority, and by assignment group where it has at least 100 outcomes: the largest gaps first.
SELECT kind, segment, count(*) AS rows, avg(score) AS predicted, avg(missed::int)::float8 AS happened
FROM queue_truth
CROSS JOIN LATERAL (VALUES ('priority', priority), ('group', assignment_group)) AS s(kind, segment)
WHERE missed IS NOT NULL
GROUP BY kind, segment HAVING count(*) >= 100
ORDER BY abs(avg(score) - avg(missed::int)::float8) DESC, segment
