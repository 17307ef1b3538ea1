-- One row a page, so that workers share the work; each sleeps instead of burning cores.
CREATE TABLE slow (n int, pad text);
ALTER TABLE slow ALTER pad SET STORAGE PLAIN;
INSERT INTO slow SELECT n, repeat('x', 6000) FROM generate_series(1, 200) AS n;
CREATE FUNCTION doze(double precision) RETURNS boolean PARALLEL SAFE LANGUAGE plpgsql AS
  'BEGIN PERFORM pg_sleep($1); RETURN true; END';
ALTER TABLE slow SET (parallel_workers = 4);
ANALYZE;
