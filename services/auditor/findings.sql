-- Statements on the database `auditor`.

-- totals: by row and state what was ever found (of duplicated: extra applications), and how often it was taken back
SELECT hop, arm, effect, state, sum(many)::bigint AS many, sum(taken_back)::bigint AS back FROM findings
GROUP BY hop, arm, effect, state;

-- found: a finding is there once; one that comes back is no new one
INSERT INTO findings (hop, arm, effect, state, message, many)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::int[])
    ON CONFLICT (hop, arm, effect, state, message) DO UPDATE
   SET many = greatest(findings.many, excluded.many), gone_at = NULL;

-- gone: taken back
UPDATE findings f SET gone_at = clock_timestamp(), taken_back = taken_back + 1
  FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]) AS g (hop, arm, effect, state, message)
 WHERE (f.hop, f.arm, f.effect, f.state, f.message) = (g.hop, g.arm, g.effect, g.state, g.message) AND f.gone_at IS NULL;

-- reconcile: take back what does not stand any more, of the arms that were audited
UPDATE findings f SET gone_at = clock_timestamp(), taken_back = taken_back + 1
 WHERE f.gone_at IS NULL AND f.state IN ('lost', 'unexpected') AND f.arm = ANY ($6) AND NOT EXISTS (
       SELECT FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])
           AS s (hop, arm, effect, state, message)
        WHERE (s.hop, s.arm, s.effect, s.state, s.message) = (f.hop, f.arm, f.effect, f.state, f.message));

-- write_rows: the last pass
INSERT INTO rows
SELECT r.hop, r.arm, r.effect, $1::timestamptz, r.c1, r.c2, r.c3, r.c4, r.c5, r.c6, r.c7, r.c8, r.c9, r.c10, r.c11,
       r.c12, r.c13
  FROM unnest($2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[],
              $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[], $16::bigint[],
              $17::bigint[])
       AS r (hop, arm, effect, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13)
    ON CONFLICT (hop, arm, effect) DO UPDATE
   SET at = excluded.at, expected = excluded.expected, applied_once = excluded.applied_once,
       duplicated = excluded.duplicated, extra_applications = excluded.extra_applications, lost = excluded.lost,
       unexpected = excluded.unexpected, waiting = excluded.waiting, dead_lettered = excluded.dead_lettered,
       discarded = excluded.discarded, uncertain = excluded.uncertain, unexplained = excluded.unexplained,
       also_held = excluded.also_held, inherited = excluded.inherited;

-- write_promises: those of this lab
INSERT INTO promises SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) ON CONFLICT DO NOTHING;

-- untold: findings that nobody has looked into, of these arms
SELECT hop, arm, effect, state, message, many FROM findings WHERE why IS NULL AND gone_at IS NULL AND arm = ANY ($2)
ORDER BY found_at DESC LIMIT $1;

-- standing: what was found and not taken back
SELECT hop, arm, effect, state, message, many, at, trace_id, last_seen, attempts, faults::text, why FROM findings
WHERE gone_at IS NULL ORDER BY found_at DESC LIMIT $1;

-- tell: what was found out about one
UPDATE findings SET trace_id = $6, at = $7::text[], last_seen = $8, attempts = $9::int, faults = $10::text::jsonb, why = $11
 WHERE hop = $1 AND arm = $2 AND effect = $3 AND state = $4 AND message = $5;

-- keep: a final audit
INSERT INTO audits (at, run, closes, document) VALUES ($1, $2, $3, $4::text::jsonb);
