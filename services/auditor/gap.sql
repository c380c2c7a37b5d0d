-- What each life left in the stores; {source} are its rows: life, at.

-- lives: of each life that left a row after $6 or was scraped, all its rows, and those before and after its last scrape
-- $1 lives, $2 to $4 their times (Unix seconds): up to which rows are surely counted, up to which possibly, and from
-- which on the scrape explains nothing; of a life that was never scraped that is $5 seconds after its first row.
WITH r AS (SELECT s.life, s.at, min(s.at) OVER (PARTITION BY s.life) AS first FROM ({source}) AS s)
SELECT r.life, count(*) AS rows,
       count(*) FILTER (WHERE r.at <= to_timestamp(l.certain)) AS certain,
       count(*) FILTER (WHERE r.at <= to_timestamp(l.possible)) AS possible,
       count(*) FILTER (WHERE r.at > coalesce(to_timestamp(l.late), r.first + make_interval(secs => $5))) AS late
  FROM r LEFT JOIN unnest($1::text[], $2::float8[], $3::float8[], $4::float8[]) AS l (life, certain, possible, late)
                ON l.life = r.life
 GROUP BY r.life HAVING max(r.at) > to_timestamp($6) OR bool_or(l.life IS NOT NULL);
