-- Ten bins of the predicted probability: what was said and what happened.
SELECT width_bucket(score, 0, 1.0000001, 10) AS bin, count(*) AS rows,
       avg(score) AS predicted, avg(missed::int)::float8 AS happened
FROM queue_truth WHERE missed IS NOT NULL
GROUP BY bin ORDER BY bin
