-- Data for the demo job of docker-compose.yml: big enough that PostgreSQL plans four workers.
CREATE TABLE sales (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    region int NOT NULL,
    sold_on date NOT NULL,
    amount numeric(12, 2) NOT NULL
) WITH (parallel_workers = 4);

INSERT INTO sales (region, sold_on, amount)
SELECT n % 50, date '2026-01-01' + n % 365, (n % 10000) / 100.0
FROM generate_series(1, 3000000) AS n;

VACUUM ANALYZE sales;
