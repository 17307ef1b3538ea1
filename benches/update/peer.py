"""psycopg 3: executemany (which it sends as a pipeline) in transactions of one chunk each.

peer.py DSN KEYS CHUNK prints the seconds that the update took.
"""

import sys
import time

import psycopg

dsn, keys, chunk = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
statement = "UPDATE orders SET status = 'submitted' WHERE id = %s AND status = 'new'"

with psycopg.connect(dsn, autocommit=True) as connection:
    began = time.monotonic()
    with connection.cursor() as cursor:
        for first in range(1, keys + 1, chunk):
            with connection.transaction():
                cursor.executemany(statement, [(key,) for key in range(first, min(first + chunk, keys + 1))])
    print(time.monotonic() - began)
