import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import java.sql.Connection;
import java.sql.PreparedStatement;

/**
 * pgjdbc batches behind HikariCP, one connection, a transaction per chunk.
 *
 * <p>Peer URL KEYS CHUNK: warms up on the rows of "warm", then prints the seconds that "orders" took.
 */
public final class Peer {
    public static void main(String[] arguments) throws Exception {
        HikariConfig config = new HikariConfig();
        config.setJdbcUrl(arguments[0]);
        config.setMaximumPoolSize(1);
        config.setAutoCommit(false);
        int keys = Integer.parseInt(arguments[1]);
        int chunk = Integer.parseInt(arguments[2]);
        try (HikariDataSource pool = new HikariDataSource(config)) {
            update(pool, "warm", keys, chunk);
            long began = System.nanoTime();
            update(pool, "orders", keys, chunk);
            System.out.println((System.nanoTime() - began) / 1e9);
        }
    }

    private static void update(HikariDataSource pool, String table, int keys, int chunk) throws Exception {
        String sql = "UPDATE " + table + " SET status = 'submitted' WHERE id = ? AND status = 'new'";
        for (int first = 1; first <= keys; first += chunk) {
            try (Connection connection = pool.getConnection();
                    PreparedStatement statement = connection.prepareStatement(sql)) {
                for (int key = first; key < first + chunk && key <= keys; key++) {
                    statement.setLong(1, key);
                    statement.addBatch();
                }
                statement.executeBatch();
                connection.commit();
            }
        }
    }
}
