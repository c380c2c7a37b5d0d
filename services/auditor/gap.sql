-- What each life left in the stores, by signal; {schema} is the arm's. $1 lives, $2 and $3 the times, Unix seconds, up to
-- which their rows are surely, and possibly, in their last scrape. A life that was never scraped is not among them.

-- record: rows of the effect `record`
SELECT r.life::text, count(*) AS rows, count(*) FILTER (WHERE r.at <= to_timestamp(l.certain)) AS certain,
       count(*) FILTER (WHERE r.at <= to_timestamp(l.possible)) AS possible
  FROM {schema}.records r
  LEFT JOIN unnest($1::text[], $2::float8[], $3::float8[]) AS l (life, certain, possible) ON l.life::uuid = r.life
 WHERE r.status = 'applied' GROUP BY r.life;

-- dedup: meetings with a known id
SELECT r.life::text, count(*) AS rows, count(*) FILTER (WHERE r.at <= to_timestamp(l.certain)) AS certain,
       count(*) FILTER (WHERE r.at <= to_timestamp(l.possible)) AS possible
  FROM {schema}.dedup_hits r
  LEFT JOIN unnest($1::text[], $2::float8[], $3::float8[]) AS l (life, certain, possible) ON l.life::uuid = r.life
 GROUP BY r.life;

-- dead_letters: letters that were parked, and parked again
SELECT r.life::text, count(*) AS rows, count(*) FILTER (WHERE r.at <= to_timestamp(l.certain)) AS certain,
       count(*) FILTER (WHERE r.at <= to_timestamp(l.possible)) AS possible
  FROM (SELECT life, at FROM {schema}.dead_letters
         UNION ALL
        SELECT life, at FROM {schema}.letter_log WHERE action = 'returned' AND life IS NOT NULL) r
  LEFT JOIN unnest($1::text[], $2::float8[], $3::float8[]) AS l (life, certain, possible) ON l.life::uuid = r.life
 GROUP BY r.life;

-- applications: rows of the provider, of an account ($4) and effect ($5)
SELECT r.life, count(*) AS rows, count(*) FILTER (WHERE r.at <= to_timestamp(l.certain)) AS certain,
       count(*) FILTER (WHERE r.at <= to_timestamp(l.possible)) AS possible
  FROM applications r
  LEFT JOIN unnest($1::text[], $2::float8[], $3::float8[]) AS l (life, certain, possible) ON l.life = r.life
 WHERE r.account = $4 AND r.effect = $5 GROUP BY r.life;
